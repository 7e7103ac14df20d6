"""Scaffolds a connection file that loads as it is: `dg scaffold defs rmm_assets.RmmConnection acme`."""

from __future__ import annotations

import re
from importlib.resources import files

import dagster as dg


class ConnectionScaffolder(dg.Scaffolder):
    """Writes the generic profile under the new connection's name."""

    def scaffold(self, request: dg.ScaffoldRequest) -> None:
        """Writes `defs.yaml` into the scaffolded folder; the connection is named after the folder."""
        name = re.sub(r"[^a-z0-9]+", "_", request.target_path.name.lower()).strip("_") or "acme"
        name = name if name[0].isalpha() else f"rmm_{name}"
        profile = files("rmm_assets").joinpath("profiles/generic.yaml").read_text(encoding="utf-8")
        _, _, body = profile.partition("type: rmm_assets.RmmConnection")
        text = f"type: rmm_assets.RmmConnection{body}".replace("name: generic", f"name: {name}", 1)
        text = re.sub(r"api_key: \{dlt_secret: api_key\}[^\n]*", f"api_key: {{env: {name.upper()}_API_KEY}}", text)
        (request.target_path / "defs.yaml").write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")

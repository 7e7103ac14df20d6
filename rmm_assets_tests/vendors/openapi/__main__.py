"""Writes what is kept of a vendor's OpenAPI description: profile, source, files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import urlsplit

from rmm_assets_tests.vendors import openapi
from rmm_assets_tests.vendors.dialects import DIALECTS
from rmm_assets_tests.vendors.loading import connection_of

if __name__ == "__main__":
    profile, source, *files = sys.argv[1:]
    made = connection_of(DIALECTS[profile](), "http://127.0.0.1:9")
    base = urlsplit(str(made.client.base_url)).path
    used = [
        (
            each.endpoint.method,
            base + "/" + re.sub(r"\{[^{}]+\}", "1", each.path).strip("/") + "/" * each.path.endswith("/"),
        )
        for each in made.resources
    ]
    openapi.write(profile, source, map(Path, files), used)

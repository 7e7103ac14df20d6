"""Runs what a Dockerfile says as plain commands, in a folder that takes the place of the image's root."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
# Top-level folders of the image that its commands and settings name.
_ABSOLUTE = re.compile(r"(?<![\w./])/(?=(?:opt|src|srv|var|run)/|src\b)")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Returns the instructions of a Dockerfile, such as `("RUN", "pip install x")`."""
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())
    ]


@dataclass
class Image:
    """What a build leaves.

    Attributes:
        root: The folder that takes the place of `/`.
        environment: The variables that the Dockerfile sets.
        entrypoint: The command before that of a service.
        command: The command of a service that has none of its own.
        work: The working directory.
    """

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    work: Path = Path("/")

    def mapped(self, text: str) -> str:
        """Returns a text with the image's absolute paths below `root`."""
        return _ABSOLUTE.sub(f"{self.root}/", text)

    def build(self, file: Path, path: str) -> None:
        """Runs a Dockerfile. All stages share `root`, as what one copies from another has the same path in both.

        Args:
            file: The Dockerfile.
            path: The variable PATH of its base image.
        """
        for word, text in instructions(file):
            if word == "FROM":
                self.environment, self.work = {"PATH": path}, self.root
            elif word == "WORKDIR":
                self.work = Path(self.mapped(text))
                self.work.mkdir(parents=True, exist_ok=True)
            elif word == "COPY" and "--from=" not in text:
                self._copy(*text.split())
            elif word == "ENV":
                for name, value in (pair.split("=", 1) for pair in text.split()):
                    self.environment[name] = self.mapped(value).replace("$PATH", self.environment["PATH"])
            elif word == "RUN":
                # This machine's users stay as they are.
                script = re.sub(r"\buseradd [^&]+&& ", "", text)
                subprocess.run(["sh", "-c", self.mapped(script)], cwd=self.work, env=self.environment, check=True)
            elif word in ("ENTRYPOINT", "CMD"):
                words = [self.mapped(one) for one in json.loads(text)]
                self.entrypoint, self.command = (words, []) if word == "ENTRYPOINT" else (self.entrypoint, words)

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        for source in sources:
            copied, to = PROJECT / source, self.work / self.mapped(target)
            if copied.is_dir():
                shutil.copytree(copied, to, ignore=shutil.ignore_patterns("__pycache__"))
                continue
            to = to / copied.name if target.endswith("/") else to
            to.parent.mkdir(parents=True, exist_ok=True)
            text = copied.read_text()
            to.write_text(self.mapped(text) if to.suffix in (".yaml", ".sh") else text)

    def start(self, service: Mapping[str, Any], log: Path, changes: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Starts a service of a compose file.

        Args:
            service: The service.
            log: Receives its output.
            changes: Texts of its command to replace, such as ports that are taken.
        """
        words = [*self.entrypoint, *(self.mapped(word) for word in service.get("command") or self.command)]
        words = [changes.get(word, word) for word in words]
        environment = {name: self.mapped(str(value)) for name, value in service.get("environment", {}).items()}
        with log.open("wb") as output:
            return subprocess.Popen(
                words,
                cwd=self.work,
                env=self.environment | environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

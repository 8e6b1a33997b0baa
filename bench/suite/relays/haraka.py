"""Haraka from npm, installed into build/. Settings, each with its reason: bench/peers/haraka.

What npm brings is the newest release that runs with this machine's Node.js; `bench/peers/haraka-version` names it.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

from ..surroundings import BENCH, ROOT, require
from .base import Relay, output_of
from harness import ORIGIN

TREE = ROOT / "build" / "peers" / "haraka"
PACKAGE = TREE / "node_modules" / "Haraka"


def fetch() -> None:
    """Once, with the network."""
    if PACKAGE.exists():
        return
    require(shutil.which("npm") is not None, "it comes with npm, which is missing; get it with: apt-get install npm")
    wanted = (BENCH / "peers" / "haraka-version").read_text().strip()
    TREE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--omit=optional", "--prefix",
                           TREE, f"Haraka@{wanted}"], capture_output=True, text=True, timeout=300, check=False)
    require(done.returncode == 0 and PACKAGE.exists(),
            f"npm could not install Haraka {wanted}: {done.stderr[-300:].strip()}")


class Haraka(Relay):
    """A Haraka with a configuration and queue of its own."""

    name = "haraka"
    pace = 0.06

    @classmethod
    def version(cls) -> str:
        require(PACKAGE.exists(), "not measured: not here; `make bench-peers` installs it with npm")
        package = json.loads((PACKAGE / "package.json").read_text())
        return f"Haraka {package['version']} on Node.js {output_of('node', '--version')}"

    def start(self) -> None:
        shutil.copytree(PACKAGE / "config", self.folder / "config")  # its defaults, as `haraka -i` lays them out
        shutil.copytree(BENCH / "peers" / "haraka", self.folder, dirs_exist_ok=True)
        (self.folder / "queue").mkdir()
        values = {"listen": f"{self.listens[0]}:{self.listens[1]}", "tls": str(self.setting.tls).lower(),
                  "hostname": f"relay.{ORIGIN}"}
        for name in ("me", "smtp.ini", "outbound.ini"):
            path = self.folder / "config" / name
            path.write_text(self._filled(path, values))
        self.run(["node", PACKAGE / "haraka.js"], {"HARAKA": str(self.folder)})

    @staticmethod
    def _filled(path: pathlib.Path, values: dict[str, str]) -> str:
        text = path.read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        return text

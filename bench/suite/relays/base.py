"""What every relay is to the bench."""

from __future__ import annotations

import abc
import pathlib
import socket
import subprocess
from dataclasses import dataclass, field
from typing import Any, ClassVar, Mapping, Sequence

from ..accounting import Group
from ..surroundings import BENCH, RELAY
from harness import Process, wait_until

CONCURRENCY = 20  # connections to one destination, for all of them: Postfix's and Onward's default
START_LIMIT_S = 30.0


@dataclass(frozen=True)
class Setting:
    """How a scenario wants the relay set up."""

    tls: bool = False
    port: int = RELAY[1]
    onward: Mapping[str, Any] = field(default_factory=dict)  # further configuration of Onward


class Relay(abc.ABC):
    """A relay that takes mail at `listens` and carries it to port 25 of what the name server says."""

    name: ClassVar[str]
    pace: ClassVar[float]  # messages it is given for each of Onward's, so that runs last about as long
    remembers_routes: ClassVar[bool] = False  # it asks the name server once for a domain, not for each message

    def __init__(self, folder: pathlib.Path, group: Group, setting: Setting) -> None:
        self.folder, self.group, self.setting = folder / self.name, group, setting
        self.listens = (RELAY[0], setting.port)
        self.folder.mkdir()
        self.folder.chmod(0o755)

    @classmethod
    @abc.abstractmethod
    def version(cls) -> str:
        """As it calls itself. Raises surroundings.Unmeasurable where it is not there, and says how to get it."""

    @abc.abstractmethod
    def start(self) -> None:
        """Returns when it takes connections."""

    def stop(self) -> None:
        """Ends it; what its group still holds is ended with the group."""
        self.process.stop()

    def run(self, arguments: Sequence[Any], env: dict[str, str] | None = None) -> None:
        """Runs the relay's main process in its group, and waits until it listens."""
        self.process = Process(self.group.command(arguments), self.folder, self.name, env)
        wait_until(self._listens, f"{self.name} to listen", START_LIMIT_S)

    def _listens(self) -> bool:
        self.process.require_running()
        with socket.socket() as sock:
            return sock.connect_ex(self.listens) == 0

    def template(self, name: str, **values: object) -> str:
        """A file of bench/peers with @name@ replaced."""
        text = (BENCH / "peers" / name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        return text


def output_of(*arguments: object) -> str:
    """The first line a command prints."""
    done = subprocess.run([str(word) for word in arguments], capture_output=True, text=True, timeout=30, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]

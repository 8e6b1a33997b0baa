"""Onward from its start to its end under a tool that counts: strace, or valgrind's callgrind."""

from __future__ import annotations

import pathlib
import time
from typing import Any

from .callgrind import Profile
from .measure import SETTLE_S, Workload, name_server, receiver, records_of, running, send
from .relays import Onward, Setting
from .surroundings import Folder

# What valgrind needs: a map that it has room for, and no filter of system calls, for it makes some of its own.
FOR_VALGRIND: dict[str, Any] = {"spool": {"map_size": "1GB"}, "seccomp": False}


def run_under(kind: type[Onward], under: tuple[str, ...], folder: pathlib.Path, load: Workload, messages: int,
              onward: dict[str, Any]) -> None:
    """One run with so many messages; 0 is a start and an end."""
    relay = type("OnwardCounted", (kind,), {"under": under})
    with name_server(folder, records_of(load)), receiver(load, folder) as sink, \
            running(relay, folder, Setting(onward=onward)):
        if messages > 0:
            send(load, sink, messages, "a")
        time.sleep(SETTLE_S)


def profile(kind: type[Onward], load: Workload, messages: int, onward: dict[str, Any] | None = None) -> Profile:
    """The same under callgrind."""
    setting = {**FOR_VALGRIND, **(onward or {})}
    with Folder() as folder:
        out = folder / "callgrind"
        run_under(kind, ("valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}"), folder, load,
                  messages, setting)
        return Profile(out)

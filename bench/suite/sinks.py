"""Who receives: our sink (bench/tools/sink.c), which stands for any number of exchanges, or smtp-sink, which we did not
write.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import threading
import time
from typing import Any, Sequence

from .surroundings import EXCHANGE, SMTP_PORT, TOOLS
from harness import tool, wait_until

PROGRAM = TOOLS / "sink"
TICKS = os.sysconf("SC_CLK_TCK")


def process_cpu_s(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:13]) / TICKS


class Sink:
    """Our sink's process, and the conversation with it; any thread may ask."""

    def __init__(self, port: int = SMTP_PORT, hung: Sequence[str] = (), well: Sequence[str] = (),
                 more: Sequence[str] = ()) -> None:
        if not PROGRAM.exists():
            raise AssertionError(f"{PROGRAM} is missing; build it with: make bench-tools")
        arguments = [str(PROGRAM), "--port", str(port), *more]
        for prefix in hung:
            arguments += ["--hung", prefix]
        for prefix in well:
            arguments += ["--well", prefix]
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._asking = threading.Lock()
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError("the sink has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise AssertionError(f"the sink did not understand: {answer['error']}")
        return answer

    def ask(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        with self._asking:
            self.process.stdin.write(command + "\n")
            return self._read()

    def hang(self, prefix: str) -> float:
        """Returns the time of it, like `heal`."""
        return self.ask(f"hang {prefix}")["t"]

    def heal(self, prefix: str) -> float:
        return self.ask(f"heal {prefix}")["t"]

    def goal(self, group: str, deliveries: int) -> None:
        self.ask(f"goal {group} {deliveries}")

    def group(self, group: str) -> dict[str, Any]:
        """The counts of the messages whose id begins with this letter."""
        none = {"messages": 0, "distinct": 0, "duplicates": 0, "recipients": 0, "verified": 0, "damaged": 0,
                "first_s": 0, "last_s": 0, "goal_s": 0, "latency": None}
        return self.ask("figures")["groups"].get(group, none)

    def prefix(self, prefix: str) -> dict[str, Any]:
        return self.ask("figures")["prefixes"][prefix]

    def wait_goal(self, group: str, limit: float) -> float:
        """Waits for the group's goal, and returns when it was reached."""
        return wait_until(lambda: self.group(group)["goal_s"], f"the goal of group {group}", limit, pause=0.05)

    def cpu_s(self) -> float:
        return process_cpu_s(self.process.pid)

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()  # that ends it
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class ThirdPartySink:
    """smtp-sink. It tells how many messages it took; nothing else is known of them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "smtp-sink"
        self.process = subprocess.Popen([tool("smtp-sink"), "-u", "nobody", "-c", f"{EXCHANGE}:{SMTP_PORT}", "1000"],
                                        stdout=self.path.open("wb"), stderr=subprocess.DEVNULL)
        self._goal = 0

    def count(self) -> int:
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 200))
            tail = file.read().rpartition(b"mesg=")[2].split(b"\r")[0].strip()
        return int(tail) if tail.isdigit() else 0

    def goal(self, _group: str, messages: int) -> None:
        self._goal = self.count() + messages

    def wait_goal(self, _group: str, limit: float) -> float:
        wait_until(lambda: self.count() >= self._goal, f"smtp-sink to count {self._goal} messages", limit, pause=0.005)
        return time.monotonic()

    def cpu_s(self) -> float:
        return process_cpu_s(self.process.pid)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

"""Who submits: our load generator (bench/tools/load.c), or smtp-source, which we did not write."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from .surroundings import RELAY, TOOLS
from harness import ORIGIN, tool


@dataclass(frozen=True)
class Mail:
    """What is submitted. Message n goes to all of its recipients at <label><n % domains>."""

    size: int = 10240
    domains: int = 1
    recipients: int = 1
    submitters: int = 20
    reconnects: bool = False  # a submitter makes a new connection for each message
    label: str = "d"


class Load:
    """Our generator, running; `finish` waits for its end and returns what it found."""

    def __init__(self, mail: Mail, messages: int, group: str = "a", to: tuple[str, int] = RELAY, **more: int) -> None:
        options = {"to": f"{to[0]}:{to[1]}", "messages": messages, "submitters": mail.submitters,
                   "domains": mail.domains, "recipients": mail.recipients, "size": mail.size, "label": mail.label,
                   "origin": ORIGIN, "group": group, **more}
        if mail.reconnects:
            options["per_connection"] = 1
        words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        self.process = subprocess.Popen([TOOLS / "load", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)

    def finish(self, limit_s: float) -> dict[str, Any]:
        try:
            out, complaint = self.process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise AssertionError(f"not all mail was accepted within {limit_s:.0f} s") from None
        if self.process.returncode != 0:
            raise AssertionError(complaint.strip())
        return json.loads(out)


def shares(whole: int, parts: int) -> list[int]:
    """As even as whole numbers allow."""
    return [whole // parts + (number < whole % parts) for number in range(parts)]


class ThirdPartyLoad:
    """smtp-source with the same interface, for mail with one recipient. One process of it keeps to one recipient; for
    several domains each submitter is a chain of processes, a domain after the other."""

    def __init__(self, mail: Mail, messages: int, group: str = "a", to: tuple[str, int] = RELAY) -> None:
        del group  # it marks nothing
        self.messages = messages
        self.began = time.monotonic()
        command = [tool("smtp-source"), *([] if mail.reconnects else ["-d"]), "-l", str(mail.size), "-N",
                   "-f", f"sender@postbox.{ORIGIN}"]
        one_each = mail.domains > 1
        runs = [shlex.join([*command, "-s", "1" if one_each else str(mail.submitters), "-m", str(count),
                            "-t", f"r@{mail.label}{number}.{ORIGIN}", f"{to[0]}:{to[1]}"])
                for number, count in enumerate(shares(messages, mail.domains)) if count > 0]
        chains = [" && ".join(runs[first::mail.submitters]) for first in range(min(mail.submitters, len(runs)))]
        script = "".join(f'{{ {chain}; }} & all="$all $!"\n' for chain in chains) + "for one in $all; do wait $one || exit 1; done"
        self.process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self, limit_s: float) -> dict[str, Any]:
        end = self.began + limit_s
        pid, status, used = 0, 0, None
        while pid == 0 and time.monotonic() < end:
            pid, status, used = os.wait4(self.process.pid, os.WNOHANG)
            time.sleep(0.001 if pid == 0 else 0)
        last = time.monotonic()
        if pid == 0:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"not all mail was accepted within {limit_s:.0f} s")
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode != 0 or used is None:
            raise AssertionError("smtp-source gave up")
        return {"accepted": self.messages, "refused": 0, "began_s": self.began, "last_s": last,
                "cpu_us": (used.ru_utime + used.ru_stime) / self.messages * 1e6}

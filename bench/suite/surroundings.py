"""Where the bench runs: a network of its own with nothing but loopback, so that ports are the real ones (25, 53),
nothing collides and nothing leaves the machine; a resolver configuration of its own that names the bench's name server;
and a folder on a real disk.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BENCH = ROOT / "bench"
TOOLS = ROOT / "build" / "release" / "bench"
BINARY = pathlib.Path(os.environ.get("ONWARD_BINARY", ROOT / "onward"))
sys.path.insert(0, str(ROOT / "tests" / "e2e"))  # the tests' harness runs processes, nsd and Exim for us too

RELAY = ("127.0.0.1", 2525)
EXCHANGE = "127.3.0.1"  # where all domains' mail goes, unless a scenario says otherwise
SMTP_PORT, DNS_PORT = 25, 53
ENTERED = "ONWARD_BENCH_ENTERED"
VOLATILE = {"tmpfs", "ramfs"}  # a sync to these costs nothing


class Unmeasurable(Exception):
    """Something the bench needs is missing; the text says what to do."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Unmeasurable(what)


def enter() -> None:
    """Starts this program again in namespaces of its own, and there returns."""
    require(os.geteuid() == 0, "mail servers switch users and the bench makes namespaces: run it as root")
    if os.environ.get(ENTERED) is None:
        os.execvpe("unshare", ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv],
                   os.environ | {ENTERED: "yes"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.NamedTemporaryFile("w", prefix="onward-resolv-", delete=False) as file:
        file.write("nameserver 127.0.0.1\n")
        os.fchmod(file.fileno(), 0o644)
    subprocess.run(["mount", "--bind", file.name, os.path.realpath("/etc/resolv.conf")], check=True)
    os.unlink(file.name)
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as ports:
        ports.write("10000 65000")  # 15,000 parked sessions beside others go to one address


def file_system_of(path: pathlib.Path) -> str:
    done = subprocess.run(["stat", "--file-system", "--format", "%T", path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Folder:
    """A folder for one run, on the disk, that every mail server's user can reach. Removed by `with`."""

    BASE = pathlib.Path(os.environ.get("ONWARD_BENCH_FOLDER", "/var/tmp"))

    def __enter__(self) -> pathlib.Path:
        require(file_system_of(self.BASE) not in VOLATILE,
                f"{self.BASE} is not on a disk, so a sync would cost nothing; name another in ONWARD_BENCH_FOLDER")
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="onward-bench-", dir=self.BASE))
        self.path.chmod(0o755)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

"""What a relay costs, whatever processes it is made of: a control group (version 2) of its own, in which all its
processes are born.

CPU time is the group's, so children that came and went count, also those nobody waited for. Memory is the anonymous
memory of the group (page cache is not the relay's to hold), sampled. Syncs, context switches and system calls come from
the kernel's tracepoints by `perf stat`, which slows every system call of the machine a little: they are counted in
rounds of their own, whose times are not used.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time
from typing import Sequence

from .surroundings import require

SAMPLE_S = 0.1
SYNCS = ("syscalls:sys_enter_fsync", "syscalls:sys_enter_fdatasync", "syscalls:sys_enter_msync",
         "syscalls:sys_enter_sync_file_range", "syscalls:sys_enter_syncfs")
SWITCHES, CALLS = "context-switches", "raw_syscalls:sys_enter"


def mounts(kind: str, option: str = "") -> list[pathlib.Path]:
    """Where file systems of this kind are mounted that have this option."""
    lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
    return [pathlib.Path(line[1]) for line in lines if line[2] == kind and (not option or option in line[3].split(","))]


def hierarchy() -> pathlib.Path:
    """The version 2 hierarchy; mounted in our mount namespace where it is not."""
    found = mounts("cgroup2")
    if not found:
        found = [pathlib.Path(tempfile.mkdtemp(prefix="onward-cgroup-"))]
        done = subprocess.run(["mount", "-t", "cgroup2", "none", found[0]], capture_output=True, text=True, check=False)
        require(done.returncode == 0,
                f"no control groups (version 2) here, which account for a relay's CPU time: {done.stderr}")
    return found[0]


class Group:
    """One relay's accounting group."""

    def __init__(self, name: str) -> None:
        self.name = f"onward-bench-{os.getpid()}-{name}"
        self.path = hierarchy() / self.name
        try:
            self.path.mkdir()
        except OSError as error:
            require(False, f"cannot make a control group at {self.path}: {error.strerror}; the bench needs that to account for "
                    "CPU time (in a container: run it with a writable /sys/fs/cgroup)")
        self._memory, self._memory_key = self._memory_group()

    def _memory_group(self) -> tuple[pathlib.Path | None, str]:
        """The folder whose memory.stat counts anonymous memory: version 2's where it has the controller, else version 1's."""
        with contextlib.suppress(OSError):
            (self.path.parent / "cgroup.subtree_control").write_text("+memory")
        if (self.path / "memory.stat").exists():
            return self.path, "anon"
        for base in mounts("cgroup", "memory"):
            with contextlib.suppress(OSError):
                (base / self.name).mkdir()
                return base / self.name, "total_rss"
        return None, ""

    def command(self, arguments: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command, changed so that it is born in the group."""
        enter = [str(path / "cgroup.procs") for path in {self.path, self._memory} if path is not None]
        script = "".join(f"echo $$ > '{path}' && " for path in enter) + 'exec "$@"'
        return ["sh", "-c", script, "sh", *map(str, arguments)]

    def cpu_s(self) -> float:
        fields = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6

    def memory_bytes(self) -> int:
        """Anonymous memory now; 0 where nothing counts it."""
        if self._memory is None:
            return 0
        fields = dict(line.split()[:2] for line in (self._memory / "memory.stat").read_text().splitlines())
        return int(fields[self._memory_key])

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """Ends what is left in it."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")
        for path in {self.path, self._memory}:
            end = time.monotonic() + 5
            while path is not None and path.exists() and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    path.rmdir()
                    break
                time.sleep(0.02)


class Watch:
    """Samples a group's memory while `with` lasts: `peak_bytes`, and `samples` as (seconds, bytes)."""

    def __init__(self, group: Group, pause_s: float = SAMPLE_S) -> None:
        self.group, self.pause_s = group, pause_s
        self.samples: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.is_set():
            self.samples.append((time.monotonic() - began, self.group.memory_bytes()))
            self._over.wait(self.pause_s)

    @property
    def peak_bytes(self) -> int:
        return max((size for _, size in self.samples), default=0)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


class Counters:
    """Counts a group's syncs, context switches and system calls while `with` lasts; `found` is empty where perf cannot."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.found: dict[str, float] = {}
        self._file = tempfile.NamedTemporaryFile(prefix="onward-perf-")

    def __enter__(self) -> "Counters":
        events = ",".join((*SYNCS, SWITCHES, CALLS))
        self._perf: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            self._perf = subprocess.Popen(["perf", "stat", "-a", "-x", ",", "-o", self._file.name, "-e", events,
                                           "--for-each-cgroup", self.group.name],
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.3)  # until it counts; what it misses of the load's beginning is in no rate
        return self

    def __exit__(self, *_: object) -> None:
        if self._perf is None:
            return
        self._perf.send_signal(signal.SIGINT)
        self._perf.wait()
        counts = dict(self._lines())
        if counts:
            self.found = {"syncs": sum(counts.get(event, 0) for event in SYNCS), "switches": counts.get(SWITCHES, 0),
                          "calls": counts.get(CALLS, 0)}

    def _lines(self) -> list[tuple[str, int]]:
        lines = [line.split(",") for line in pathlib.Path(self._file.name).read_text().splitlines()]
        return [(line[2], int(line[0])) for line in lines if len(line) > 3 and line[0].isdigit()]

"""What the end-to-end tests stand on: the relay, a real name server, exchanges and clients, all on loopback.

Nothing here guesses about time. A test waits for an event (a log line, a message at an exchange, the end of a
process) with a limit that is far above what it takes; it asserts order and counts. Where seconds are the requirement
itself, only an upper bound is asserted.

    class MyTest(E2ETest):
        def test_a_message_arrives(self):
            world = self.world()                              # folders, ports, a zone, exchanges, a relay
            a = world.exchange("good")                        # an address with a behaviour (peers/exchange.py)
            world.mx("one", a)                                # one.example.net MX 10 -> a
            relay = world.start()
            relay.send("sender@one.example.net", ["r@one.example.net"], message_id="m1")
            world.wait_accepted("m1")
"""

from __future__ import annotations

import contextlib
import http.client
import json
import mmap
import os
import pathlib
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from typing import Any, Callable, Iterable, Sequence, TypeVar

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("ONWARD_BINARY", ROOT / "onward"))
CACHE = pathlib.Path(os.environ.get("ONWARD_TEST_CACHE", ROOT / "build" / "peers"))
KEPT_LOGS = os.environ.get("ONWARD_TEST_LOGS")
SANITIZED = any(word in str(BINARY) for word in ("asan", "tsan"))

ORIGIN = "example.net"
RELAY_NAME = f"relay.{ORIGIN}"
# Limits are for what hangs: a machine that others keep busy is ten times slower, and stands still for seconds.
WAIT_LIMIT = 60.0  # seconds for anything that should take none
TEST_LIMIT = 60  # seconds for one test that this machine has for itself, unless its class says otherwise
BUSY_MACHINE = 5  # times as long may a test take
STOP_LIMIT = 120.0
# For tests where an exchange must be taken for well: one that stands still for seconds is not found slow.
PATIENT = {"patience_min": "1m", "patience_max": "5m"}

PACKAGES = {"nsd": "nsd", "smtp-sink": "postfix", "smtp-source": "postfix", "postfix": "postfix", "swaks": "swaks",
            "openssl": "openssl", "curl": "curl", "promtool": "prometheus", "haproxy": "haproxy", "dpkg": "dpkg",
            "apt-get": "apt"}

T = TypeVar("T")


# ---- small tools ----


def tool(name: str) -> str:
    """The program's path; a missing one is a failure that says how to get it."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise AssertionError(f"{name} is missing; install it with: apt-get install {PACKAGES.get(name, name)}")
    return path


def wait_until(predicate: Callable[[], T], what: str, limit: float = WAIT_LIMIT, pause: float = 0.01) -> T:
    """Waits until the predicate gives something true, and returns that. A costly one is asked less often."""
    end = time.monotonic() + limit
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit:.0f} s in vain for {what}")
        time.sleep(pause)


def stays(predicate: Callable[[], bool], seconds: float) -> bool:
    """True where the predicate holds all the time: for what must not happen. It can miss a fault, never invent one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not predicate():
            return False
        time.sleep(0.02)
    return predicate()


def scaled(count: int) -> int:
    """A load that fits the build: a sanitizer costs about ten times the work."""
    return max(1, count // 10) if SANITIZED else count


class Ports:
    """Hands out free ports below the ephemeral range, each once. Test processes side by side have their own slot."""

    FIRST, PER_SLOT, SLOTS = 20000, 3000, 4
    _next: int | None = None

    @classmethod
    def take(cls) -> int:
        base = cls.FIRST + int(os.environ.get("ONWARD_TEST_SLOT", "0")) % cls.SLOTS * cls.PER_SLOT
        if cls._next is None:
            cls._next = random.randrange(cls.PER_SLOT)
        for _ in range(cls.PER_SLOT):
            port = base + cls._next
            cls._next = (cls._next + 1) % cls.PER_SLOT
            if cls._is_free(port):
                return port
        raise AssertionError("no free port left")

    @staticmethod
    def _is_free(port: int) -> bool:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as sock:
                try:
                    sock.bind(("0.0.0.0", port))
                except OSError:
                    return False
        return True


class JsonLines:
    """A growing file of JSON lines, read as far as it is complete."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._position = 0
        self._rest = b""
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        if self.path.exists():
            if self.path.stat().st_size < self._position:
                self._position, self._rest = 0, b""  # rotated or truncated: what was read is kept
            with open(self.path, "rb") as file:
                file.seek(self._position)
                data = file.read()
            self._position += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            self._lines += [self._parse(line) for line in whole if line]
        return self._lines

    @staticmethod
    def _parse(line: bytes) -> dict[str, Any]:
        """A line that a kill cut short is followed on the same line by the next process's first."""
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            return json.loads(line[line.rfind(b'{"time"'):])

    def where(self, **fields: Any) -> list[dict[str, Any]]:
        """The lines that have all of these values."""
        return [line for line in self.lines() if all(line.get(key) == value for key, value in fields.items())]


def to_yaml(value: Any, indent: str = "") -> str:
    """Block-style YAML of dicts and lists; scalars are written as JSON, which YAML includes."""
    if isinstance(value, dict) and value:
        return "".join(f"{indent}{key}:{_nested(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{indent}-{_nested(item, indent)}" for item in value)
    return f"{indent}{json.dumps(value)}\n"


def _nested(item: Any, indent: str) -> str:
    if isinstance(item, (dict, list)) and item:
        return "\n" + to_yaml(item, indent + "  ")
    return f" {json.dumps(item)}\n"


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over` put over it, mapping by mapping."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if both else value
    return result


def message(message_id: str, body: str | bytes = "Hello.\r\n", sender: str = f"sender@{ORIGIN}") -> bytes:
    """A whole message in wire form."""
    head = (f"From: <{sender}>\r\nTo: undisclosed:;\r\nSubject: Test\r\nDate: Thu, 01 Jan 2026 00:00:00 +0000\r\n"
            f"Message-ID: <{message_id}@{ORIGIN}>\r\n\r\n").encode()
    return head + (body.encode() if isinstance(body, str) else body)


def content_of(size: int) -> str:
    """About `size` bytes of lines."""
    line = "0123456789" * 7 + "\r\n"
    return line * (size // len(line) + 1)


def up_to_data(sender: str, recipient: str) -> bytes:
    """A client's bytes from EHLO to DATA, for tests that talk by hand."""
    return f"EHLO client.example\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()


def onward(*arguments: str | os.PathLike[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command of the binary to its end."""
    return subprocess.run([str(BINARY), *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=WAIT_LIMIT, check=False)


# ---- processes ----


class Process:
    """A child in its own process group with its output in files."""

    def __init__(self, arguments: Sequence[str | os.PathLike[str]], folder: pathlib.Path, name: str,
                 env: dict[str, str] | None = None) -> None:
        self.name = name
        self.stdout_path = folder / f"{name}.stdout"
        self.stderr_path = folder / f"{name}.stderr"
        with open(self.stdout_path, "ab") as out, open(self.stderr_path, "ab") as err:
            self.popen = subprocess.Popen([str(a) for a in arguments], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
                                          start_new_session=True, env={**os.environ, **(env or {})})

    @property
    def pid(self) -> int:
        return self.popen.pid

    def running(self) -> bool:
        return self.popen.poll() is None

    def stderr(self) -> str:
        return self.stderr_path.read_text(errors="replace")

    def require_running(self) -> None:
        if not self.running():
            raise AssertionError(f"{self.name} ended with status {self.popen.returncode}:\n{self.stderr()[-4000:]}")

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self, limit: float = STOP_LIMIT) -> int:
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {limit:.0f} s") from None

    def kill(self) -> None:
        """Ends the whole group, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.popen.wait()

    def stop(self) -> None:
        """Ends a helper kindly, then surely."""
        if self.running():
            self.popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        self.kill()


# ---- the name server ----


class Zone:
    """A real authoritative name server (nsd) for one zone on a loopback port."""

    def __init__(self, folder: pathlib.Path, origin: str = ORIGIN) -> None:
        self.folder = folder
        self.origin = origin
        self.port = Ports.take()
        self.records: list[str] = []
        self.process: Process | None = None

    def add(self, *records: str) -> None:
        """Master-file lines, relative to the origin."""
        self.records.extend(records)

    def name(self, label: str) -> str:
        return f"{label}.{self.origin}"

    @property
    def server(self) -> str:
        return f"127.0.0.1@{self.port}"

    def text(self) -> str:
        serial = int(time.time())
        head = [f"$ORIGIN {self.origin}.", "$TTL 3600", f"@ SOA ns hostmaster {serial} 3600 900 604800 60", "@ NS ns",
                "ns A 127.0.0.1"]
        return "\n".join(head + self.records) + "\n"

    def start(self) -> None:
        folder = self.folder
        (folder / "zone").write_text(self.text())
        (folder / "nsd.conf").write_text(f"""server:
    ip-address: 127.0.0.1@{self.port}
    username: ""
    chroot: ""
    database: ""
    server-count: 1
    rrl-ratelimit: 0
    zonesdir: "{folder}"
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    logfile: "{folder}/nsd.log"
remote-control:
    control-enable: no
zone:
    name: "{self.origin}"
    zonefile: "zone"
zone:
    name: "broken.test-zone.{self.origin}"
    zonefile: "there-is-no-such-file"
""")
        self.process = Process([tool("nsd"), "-d", "-c", folder / "nsd.conf"], folder, "nsd")
        wait_until(self._answers, "nsd to answer")

    def _answers(self) -> bool:
        """One SOA question by hand: no resolver of the system's is involved."""
        assert self.process is not None
        self.process.require_running()
        name = b"".join(bytes([len(label)]) + label.encode() for label in self.origin.split(".")) + b"\0"
        question = b"\x12\x34\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + b"\x00\x06\x00\x01"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            try:
                sock.sendto(question, ("127.0.0.1", self.port))
                answer = sock.recv(512)
            except OSError:
                return False
        return answer[3] & 0x0F == 0 and answer[7] > 0

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None


# ---- exchanges ----


class Exchanges:
    """One process of peers/exchange.py with all the exchanges of a test, and what it has seen."""

    def __init__(self, folder: pathlib.Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.behaviours: dict[str, str] = {}
        self.process: Process | None = None
        self.events = JsonLines(folder / "events.jsonl")
        self.taken = JsonLines(folder / "accepted.jsonl")

    def add(self, address: str, behaviour: str) -> None:
        self.behaviours[address] = behaviour

    def start(self) -> None:
        if not self.behaviours:
            return
        program = ROOT / "tests/peers/exchange.py"
        arguments: list[str | os.PathLike[str]] = [sys.executable, program, "--folder", self.folder]
        if any("starttls" in behaviour for behaviour in self.behaviours.values()):
            arguments += self.prepare_certificate()
        for address, behaviour in self.behaviours.items():
            host = f"[{address}]" if ":" in address else address
            arguments.append(f"{host}:{self.port}/{behaviour}")
        self.process = Process(arguments, self.folder, "exchanges")
        wait_until(self._is_ready, "the exchanges to listen")

    def _is_ready(self) -> bool:
        assert self.process is not None
        self.process.require_running()
        return "ready" in self.process.stdout_path.read_text()

    def prepare_certificate(self) -> list[str]:
        """A self-signed certificate that is good for the names of the domain "tls" of the zone."""
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        names = f"subjectAltName=DNS:*.{ORIGIN},DNS:*.tls.{ORIGIN}"
        if not cert.exists():
            subprocess.run([tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
                            "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN=exchange.{ORIGIN}",
                            "-addext", names, "-keyout", key, "-out", cert], check=True, capture_output=True)
        return ["--cert", str(cert), "--key", str(key)]

    def at(self, address: str) -> str:
        return f"{address}:{self.port}"

    def accepted(self, message_id: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """What was taken, of one message-id (as given to `message`) or all."""
        lines = self.taken.where(**fields)
        wanted = f"<{message_id}@{ORIGIN}>"
        return lines if message_id is None else [line for line in lines if line["message_id"] == wanted]

    def connections(self, address: str) -> int:
        return len(self.events.where(at=self.at(address), event="open"))

    def open_now(self, address: str) -> int:
        return self.connections(address) - len(self.events.where(at=self.at(address), event="closed"))

    def commands(self, address: str, verb: str) -> list[str]:
        lines = [line["line"] for line in self.events.where(at=self.at(address), event="command")]
        return [line for line in lines if line.split(" ")[0].upper() == verb]

    def violations(self) -> list[dict[str, Any]]:
        return self.events.where(event="violation")

    def content(self, record: dict[str, Any]) -> bytes:
        return (self.folder / record["file"]).read_bytes()

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None


class Sink:
    """Postfix's smtp-sink: a third party's receiver, each message into a file of its own."""

    def __init__(self, folder: pathlib.Path, address: str, port: int) -> None:
        self.address = address
        self.folder = folder / f"sink-{address}"
        self.folder.mkdir()
        arguments: list[str | os.PathLike[str]] = [tool("smtp-sink")]
        if os.geteuid() == 0:  # smtp-sink refuses to run as root
            os.chmod(folder, 0o755)
            shutil.chown(self.folder, "nobody")
            arguments += ["-u", "nobody"]
        arguments += ["-d", f"{self.folder}/%H%M%S.", f"{address}:{port}", "1024"]
        self.process = Process(arguments, folder, f"sink-{address}")
        wait_until(lambda: self._listens(address, port), "smtp-sink to listen")

    def _listens(self, address: str, port: int) -> bool:
        self.process.require_running()
        with socket.socket() as sock:
            return sock.connect_ex((address, port)) == 0

    def recipients(self) -> list[str]:
        """The recipient of each message dumped, with repeats: one entry per delivery."""
        found = []
        for path in self.folder.iterdir():
            with open(path, encoding="latin-1") as file:
                for line in file:
                    if line.startswith("X-Rcpt-Args: "):
                        found.append(line.split("<", 1)[1].split(">", 1)[0])
                    elif line == "\n":
                        break
        return found

    def count(self) -> int:
        return sum(1 for _ in self.folder.iterdir())

    def stop(self) -> None:
        self.process.stop()


# ---- the relay ----


class Relay:
    """`onward serve` with a configuration of its own."""

    def __init__(self, folder: pathlib.Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.port = Ports.take()
        self.config_path = folder / "onward.yaml"
        self.log_path = folder / "onward.log"
        self.log = JsonLines(self.log_path)
        self.process: Process | None = None
        self.starts = 0
        self.env: dict[str, str] = {}
        self.config = merge(self._defaults(), config)
        self.write_config()

    def _defaults(self) -> dict[str, Any]:
        return {"hostname": RELAY_NAME, **({"user": "root"} if os.geteuid() == 0 else {}),
                "workers": {"threads": 2},
                "submission": {"listen": [{"address": f"127.0.0.1:{self.port}", "proxy_protocol": False}]},
                "spool": {"path": str(self.folder / "spool"), "free_floor": "1MB", "map_size": "16GB"},
                "log": {"path": str(self.log_path)},
                "control": {"socket": str(self.folder / "control.sock")},
                "http": {"listen": [{"socket": str(self.folder / "http.sock")}]},
                "drain_timeout": "10s"}

    def write_config(self, **over: Any) -> None:
        self.config = merge(self.config, over)
        self.config_path.write_text(to_yaml(self.config))

    def start(self) -> "Relay":
        if not BINARY.exists():
            raise AssertionError(f"{BINARY} is missing; build it with: make")
        self.starts += 1
        self.process = Process([BINARY, "serve", "-c", self.config_path], self.folder, f"onward-{self.starts}",
                               self.env)
        wait_until(self._greets, "the relay's greeting")
        return self

    def _greets(self) -> bool:
        """Ready means that a client is spoken to, be it to refuse it."""
        assert self.process is not None
        self.process.require_running()
        listener = self.config["submission"]["listen"][0]
        host, _, port = listener["address"].rpartition(":")
        try:
            with socket.create_connection((host, int(port)), 5) as sock:
                sock.settimeout(5)
                if listener["proxy_protocol"]:
                    sock.sendall(b"PROXY UNKNOWN\r\n")
                greeting = sock.recv(512)
                sock.sendall(b"QUIT\r\n")
                while sock.recv(512):
                    continue
                return greeting[:1] in (b"2", b"4", b"5") and self._is_controllable() and self._answers_http()
        except OSError:
            return False

    def _is_controllable(self) -> bool:
        """The control socket comes behind SMTP; one left behind by a killed process refuses."""
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.config["control"]["socket"]) == 0

    def _answers_http(self) -> bool:
        """HTTP comes last."""
        for listener in self.config["http"]["listen"]:
            host, _, port = listener.get("address", "").rpartition(":")
            with socket.socket(socket.AF_INET if port else socket.AF_UNIX) as sock:
                if sock.connect_ex((host, int(port)) if port else listener["socket"]) != 0:
                    return False
        return True

    def preload(self, name: str, variable: str, size: int) -> mmap.mmap:
        """From the next start on with a library of tests/preload, which is steered by `size` bytes that both map."""
        library = BINARY.resolve().parent / "preload" / f"{name}.so"
        if BINARY == ROOT / "onward":
            library = ROOT / "build/release/preload" / f"{name}.so"
        if not library.exists():
            raise AssertionError(f"{library} is missing; build it with: make preloads")
        path = self.folder / name
        path.write_bytes(bytes(size))
        options = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        self.env = {**self.env, "LD_PRELOAD": str(library), variable: str(path), "ASAN_OPTIONS": options}
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), size)

    def kill(self) -> None:
        """What a power cut leaves: no signal handler, no flush."""
        assert self.process is not None
        self.process.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def terminate(self, expected_status: int = 0) -> None:
        """SIGTERM, and a clean end. A sanitizer's or an assertion's complaint fails the test."""
        if self.process is None:
            return
        process, self.process = self.process, None
        if process.running():
            process.signal(signal.SIGTERM)
        status = process.wait()
        if status != expected_status:
            raise AssertionError(f"the relay ended with status {status}:\n{process.stderr()[-6000:]}")
        if "Sanitizer" in process.stderr():
            raise AssertionError(f"a sanitizer complains:\n{process.stderr()[:6000]}")

    def restart(self) -> None:
        self.terminate()
        self.start()

    def cleanup(self) -> None:
        """For a test that failed midway: the process goes, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process = None

    # ---- talking to it ----

    def connect(self, timeout: float = WAIT_LIMIT) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, local_hostname="client.example.org", timeout=timeout)

    def socket(self, timeout: float = WAIT_LIMIT) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def send(self, sender: str, recipients: Sequence[str], message_id: str, body: str | bytes = "Hello.\r\n",
             mail_options: Sequence[str] = (), rcpt_options: Sequence[str] = ()) -> float:
        """Submits one message and returns the (monotonic) time of its 250. Any refusal raises."""
        with self.connect() as client:
            refused = client.sendmail(sender, list(recipients), message(message_id, body, sender or f"sender@{ORIGIN}"),
                                      mail_options, rcpt_options)
            if refused:
                raise AssertionError(f"recipients refused: {refused}")
            return time.monotonic()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of the binary's, with this relay's configuration appended."""
        return onward(*arguments, "-c", self.config_path)

    def json(self, *arguments: str) -> list[dict[str, Any]]:
        """The objects a command prints with --json."""
        done = self.run(*arguments, "--json")
        if done.returncode != 0:
            raise AssertionError(f"onward {' '.join(arguments)}: status {done.returncode}: {done.stderr}")
        return parse_objects(done.stdout)

    def wait_drained(self, limit: float = WAIT_LIMIT) -> None:
        """Waits until nothing is queued: an outcome is in the spool a moment after the exchange has taken the message."""
        wait_until(lambda: self.json("queue", "list") == [], "the queue to be empty", limit, pause=0.05)

    def wait_unoccupied(self) -> None:
        """Waits until no client is connected, the one that found it listening included."""
        wait_until(lambda: self.json("status")[0]["workers"]["submissions_open"] == 0, "all clients to be gone")

    def resident_kb(self) -> int:
        """The memory the process holds now."""
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    # ---- its log ----

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        return self.log.where(event=event, **fields)

    def wait_logged(self, event: str, count: int = 1, limit: float = WAIT_LIMIT, **fields: Any) -> list[dict[str, Any]]:
        """Waits for `count` lines of this event with these values, and returns all of them."""
        def enough() -> list[dict[str, Any]] | None:
            if self.process is not None:
                self.process.require_running()
            found = self.logged(event, **fields)
            return found if len(found) >= count else None
        return wait_until(enough, f"{count} log lines {event!r} {fields}", limit) or []


def parse_objects(text: str) -> list[dict[str, Any]]:
    """A JSON array of objects, one object, or one per line; the closing "done" line is left out."""
    try:
        value = json.loads(text)
        objects = value if isinstance(value, list) else [value]
    except json.JSONDecodeError:
        objects = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [item for item in objects if set(item) != {"done"}]


# ---- a test's surroundings ----


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the relay's unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=STOP_LIMIT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class World:
    """The folder, ports, zone, exchanges and relay of one test. `start` starts them in order."""

    def __init__(self, **config: Any) -> None:
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="onward-e2e-"))
        os.chmod(self.folder, 0o755)  # smtp-sink and a mail system write below it as users of their own
        self.delivery_port = Ports.take()
        self.zone = Zone(self._subfolder("dns"))
        self.exchanges = Exchanges(self._subfolder("exchanges"), self.delivery_port)
        self.helpers: list[Any] = []
        self.relay = Relay(self._subfolder("relay"), merge(self._dns_and_delivery(), config))
        self._last_host = 10

    def _subfolder(self, name: str) -> pathlib.Path:
        path = self.folder / name
        path.mkdir()
        return path

    def _dns_and_delivery(self) -> dict[str, Any]:
        return {"delivery": {"port": self.delivery_port, "tls": "opportunistic"},
                "dns": {"stub_zones": [{"zone": ORIGIN, "servers": [self.zone.server]}],
                        "unbound": [f"domain-insecure: {ORIGIN}", "do-not-query-localhost: no"], "dnssec": False}}

    # ---- building ----

    def address(self) -> str:
        """A loopback address that nothing else of this test uses."""
        self._last_host += 1
        return f"127.0.{self._last_host >> 8}.{self._last_host & 255}"

    def exchange(self, behaviour: str = "good", address: str | None = None) -> str:
        """An exchange with this behaviour; returns its address."""
        address = address or self.address()
        self.exchanges.add(address, behaviour)
        return address

    def mx(self, label: str, *addresses: str) -> str:
        """A domain whose exchanges, in order of preference, are at these addresses. Returns its name."""
        for number, address in enumerate(addresses, 1):
            kind = "AAAA" if ":" in address else "A"
            self.zone.add(f"{label} MX {number * 10} mx{number}.{label}", f"mx{number}.{label} {kind} {address}")
        return self.zone.name(label)

    def domain(self, label: str, *behaviours: str) -> tuple[str, list[str]]:
        """A domain with one new exchange per behaviour: its name and their addresses."""
        addresses = [self.exchange(behaviour) for behaviour in behaviours]
        return self.mx(label, *addresses), addresses

    def silent_address(self) -> str:
        """An address where nothing listens: connections are refused."""
        return self.address()

    def sink(self, address: str | None = None) -> Sink:
        sink = Sink(self._subfolder(f"sink{len(self.helpers)}"), address or self.address(), self.delivery_port)
        self.helpers.append(sink)
        return sink

    def start(self) -> Relay:
        self.zone.start()
        self.exchanges.start()
        return self.relay.start()

    # ---- watching ----

    def wait_accepted(self, message_id: str, count: int = 1, limit: float = WAIT_LIMIT) -> list[dict[str, Any]]:
        """Waits until the exchanges have taken `count` copies or parts of a message."""
        def arrived() -> list[dict[str, Any]] | None:
            if self.relay.process is not None:
                self.relay.process.require_running()
            found = self.exchanges.accepted(message_id)
            return found if len(found) >= count else None
        return wait_until(arrived, f"message {message_id!r} to arrive ({count} times)", limit) or []

    def recipients_taken(self, message_id: str | None = None) -> list[str]:
        return [r for record in self.exchanges.accepted(message_id) for r in record["recipients"]]

    # ---- ending ----

    def finish(self) -> None:
        """The end of a test that went well: all must end cleanly and have kept to the protocol."""
        self.relay.terminate()
        violations = self.exchanges.violations()
        if violations:
            raise AssertionError(f"the relay broke the protocol: {violations[:5]}")

    def cleanup(self, keep_logs_as: str | None) -> None:
        self.relay.cleanup()
        for helper in reversed(self.helpers):
            helper.stop()
        self.exchanges.stop()
        self.zone.stop()
        if keep_logs_as is not None and KEPT_LOGS:
            kept = pathlib.Path(KEPT_LOGS) / keep_logs_as
            shutil.rmtree(kept, ignore_errors=True)
            left_out = shutil.ignore_patterns("spool", "*.eml", "sink-*", "*.sock", "public", "private")
            shutil.copytree(self.folder, kept, ignore=left_out, ignore_dangling_symlinks=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class TimeLimit(AssertionError):
    """A test took longer than its hard limit."""


@contextlib.contextmanager
def hard_limit(seconds: int, what: str) -> Iterable[None]:  # type: ignore[misc]
    """Fails loudly, wherever the test hangs."""
    def on_alarm(_number: int, _frame: Any) -> None:
        raise TimeLimit(f"{what} took longer than its limit of {seconds} s")
    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class E2ETest(unittest.TestCase):
    """A test with a hard time limit whose worlds are checked and cleaned up behind it."""

    limit_s = TEST_LIMIT

    def run(self, result: unittest.TestResult | None = None) -> unittest.TestResult | None:
        self._went_well = False
        return super().run(result)

    def setUp(self) -> None:
        limit = hard_limit(self.limit_s * BUSY_MACHINE * (3 if SANITIZED else 1), self.id())
        self.enterContext(limit)

    def world(self, **config: Any) -> World:
        world = World(**config)
        self.addCleanup(self._end, world)
        return world

    def _callTestMethod(self, method: Callable[[], None]) -> None:
        """Notes whether the test itself went well, which its clean-up must know and unittest does not tell it."""
        self._went_well = False
        super()._callTestMethod(method)  # type: ignore[misc]
        self._went_well = self._outcome.success  # type: ignore[attr-defined]  (sub-tests swallow their failures)

    def _end(self, world: World) -> None:
        well = self._went_well
        try:
            if well:
                world.finish()
        except BaseException:
            well = False
            raise
        finally:
            world.cleanup(None if well else self.id())


def main() -> None:
    """Runs one file by itself."""
    unittest.main(verbosity=2)

"""One relay, once, under one workload: what throughput scenarios are made of."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import Any, Iterator

from .accounting import Counters, Group, Watch
from .load import Load, Mail, ThirdPartyLoad
from .relays import Relay, Setting
from .sinks import Sink, ThirdPartySink
from .surroundings import DNS_PORT, EXCHANGE, SMTP_PORT, TOOLS, Folder
from harness import Zone, tool, wait_until

Figures = dict[str, Any]

WARM_UP_PART = 0.05  # of the messages go ahead: processes, connections, caches
WARM_UP_LEAST = 20
LIMIT_S = 150.0  # for one run
SETTLE_S = 0.3  # until the last outcomes are committed
FAR_PORT = 2626  # the sink's, behind the proxy that delays
SINK_OPTIONS = ("--chunking",)


@dataclass(frozen=True)
class Workload:
    """What is sent, to whom, and over what."""

    mail: Mail = field(default_factory=Mail)
    third_party: bool = False  # smtp-source and smtp-sink instead of ours
    connection_each: bool = False  # Onward makes a connection for each message
    own_exchanges: bool = False  # each domain has an exchange of its own: as many destinations as domains
    tls: bool = False
    one_way_ms: int = 0


def setting_of(load: Workload) -> Setting:
    return Setting(tls=load.tls, onward={"delivery": {"messages_per_connection": 1}} if load.connection_each else {})


def warm_up(relay: Relay, load: Workload, sink: Sink | ThirdPartySink, messages: int) -> None:
    """Some messages go ahead, for processes, connections and what is remembered of domains."""
    domains = load.mail.domains if relay.remembers_routes else 0
    send(load, sink, max(WARM_UP_LEAST, domains, int(messages * WARM_UP_PART)), "w")
    time.sleep(SETTLE_S)


def address(network: int, number: int) -> str:
    """The `number`-th address of 127.NETWORK.0.0/16, counted from .0.1 on."""
    return f"127.{network}.{(number + 1) >> 8}.{(number + 1) & 255}"


def certificate(folder: pathlib.Path) -> tuple[str, ...]:
    """Options that make the sink offer STARTTLS, with a self-signed certificate."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run([tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-days", "2", "-subj", "/CN=mx.example.net", "-keyout", key, "-out", cert], check=True, capture_output=True)
    return "--cert", str(cert), "--key", str(key)


@contextlib.contextmanager
def name_server(folder: pathlib.Path, records: list[str]) -> Iterator[None]:
    """nsd on the resolver's port, authoritative for the zone of all scenarios."""
    (folder / "dns").mkdir()
    zone = Zone(folder / "dns")
    zone.port = DNS_PORT
    zone.add(*records)
    zone.start()
    try:
        yield
    finally:
        zone.stop()


def records_of(load: Workload) -> list[str]:
    records = [f"mx A {EXCHANGE}", "postbox A 127.0.0.1"]
    for number in range(load.mail.domains):
        mx = f"mx{number}" if load.own_exchanges else "mx"
        records.append(f"{load.mail.label}{number} MX 10 {mx}")
        if load.own_exchanges:
            records.append(f"mx{number} A {address(10, number)}")
    return records


@contextlib.contextmanager
def delayed(one_way_ms: int) -> Iterator[None]:
    """All of port 25 leads to the sink by a long way."""
    if one_way_ms == 0:
        yield
        return
    process = subprocess.Popen([TOOLS / "delay", "--listen", f"0.0.0.0:{SMTP_PORT}", "--to", f"{EXCHANGE}:{FAR_PORT}",
                                "--one-way-ms", str(one_way_ms)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdin is not None
    process.stdout.readline()  # ready
    try:
        yield
    finally:
        process.stdin.close()
        process.wait(5)


@contextlib.contextmanager
def receiver(load: Workload, folder: pathlib.Path) -> Iterator[Sink | ThirdPartySink]:
    """The sink that this workload wants, well."""
    if load.third_party:
        sink: Sink | ThirdPartySink = ThirdPartySink(folder)
    else:
        options = SINK_OPTIONS + (certificate(folder) if load.tls else ())
        sink = Sink(FAR_PORT if load.one_way_ms else SMTP_PORT, more=options)
    try:
        with delayed(load.one_way_ms):
            yield sink
    finally:
        sink.stop()


@contextlib.contextmanager
def running(kind: type[Relay], folder: pathlib.Path, setting: Setting) -> Iterator[Relay]:
    """The relay, started in a group of its own."""
    group = Group(kind.name)
    relay = kind(folder, group, setting)
    try:
        relay.start()
        yield relay
        relay.stop()
    finally:
        group.remove()


def send(load: Workload, sink: Sink | ThirdPartySink, messages: int, group: str) -> dict[str, Any]:
    """Submits, and waits until all has arrived; the generator's figures, with `ended_s`."""
    sink.goal(group, messages * load.mail.recipients)
    generator = ThirdPartyLoad(load.mail, messages) if load.third_party else Load(load.mail, messages, group)
    end = time.monotonic() + LIMIT_S
    found = generator.finish(LIMIT_S)
    found["ended_s"] = sink.wait_goal(group, max(1.0, end - time.monotonic()))
    return found


def of_sink(sink: Sink | ThirdPartySink, deliveries: int) -> Figures:
    """What our sink knows: whether all came, once and undamaged, and after how long."""
    if isinstance(sink, ThirdPartySink):
        return {}
    group = sink.group("a")
    return {"lost": deliveries - group["distinct"], "duplicates": group["duplicates"], "damaged": group["damaged"],
            "end_to_end": group["latency"]}


def run_relay(kind: type[Relay], load: Workload, messages: int) -> Figures:
    """Times, CPU and memory of one run."""
    with Folder() as folder, name_server(folder, records_of(load)), receiver(load, folder) as sink, \
            running(kind, folder, setting_of(load)) as relay:
        warm_up(relay, load, sink, messages)
        cpu, sink_cpu = relay.group.cpu_s(), sink.cpu_s()
        with Watch(relay.group) as memory:
            found = send(load, sink, messages, "a")
            time.sleep(SETTLE_S)
        took = found["ended_s"] - found["began_s"]
        return {"messages": messages, "per_s": messages / took,
                "deliveries_per_s": messages * load.mail.recipients / took,
                "accepted_per_s": messages / (found["last_s"] - found["began_s"]),
                "cpu_us": (relay.group.cpu_s() - cpu) / messages * 1e6, "load_us": found["cpu_us"],
                "sink_us": (sink.cpu_s() - sink_cpu) / messages * 1e6, "peak_mb": memory.peak_bytes / 1e6,
                "refused": found["refused"], "submission": found.get("latency"),
                **of_sink(sink, messages * load.mail.recipients)}


def count_relay(kind: type[Relay], load: Workload, messages: int) -> Figures:
    """Syncs, context switches and system calls a message, in a run whose times are not used."""
    with Folder() as folder, name_server(folder, records_of(load)), receiver(load, folder) as sink, \
            running(kind, folder, setting_of(load)) as relay:
        warm_up(relay, load, sink, messages)
        with Counters(relay.group) as counters:
            send(load, sink, messages, "a")
            time.sleep(SETTLE_S)
        return {f"{name}_each": count / messages for name, count in counters.found.items()}


def run_floor(load: Workload, messages: int) -> Figures:
    """The source straight into the sink: what merely sending and merely receiving cost."""
    with Folder() as folder, receiver(load, folder) as sink:
        wait_until(_answers, "the sink to listen", 10)
        before = sink.cpu_s()
        to = (EXCHANGE, SMTP_PORT)
        sink.goal("a", messages * load.mail.recipients)
        generator = ThirdPartyLoad(load.mail, messages, to=to) if load.third_party else Load(load.mail, messages, to=to)
        found = generator.finish(LIMIT_S)
        took = sink.wait_goal("a", LIMIT_S) - found["began_s"]
        return {"messages": messages, "per_s": messages / took, "load_us": found["cpu_us"],
                "sink_us": (sink.cpu_s() - before) / messages * 1e6}


def _answers() -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((EXCHANGE, SMTP_PORT)) == 0

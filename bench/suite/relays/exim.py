"""Exim from Debian, unpacked as the end-to-end tests do it, since it cannot be installed beside Postfix. Settings, each
with its reason: bench/peers/exim.conf.

Debian's Exim insists on a user that only its package's installation makes: it runs in a mount namespace of its own,
where /etc/passwd and /etc/group are copies with that user added.
"""

from __future__ import annotations

import gzip
import pathlib
import shutil
from grp import getgrnam
from pwd import getpwnam

from ..surroundings import Unmeasurable, require
from .base import CONCURRENCY, Relay
from harness import CACHE, ORIGIN, tool
from mailservers import EXIM_USER, MAIL_USER, exim_tree

TREE = CACHE / "exim"


def fetch() -> None:
    """Once, with the network."""
    try:
        exim_tree()
    except AssertionError as error:
        raise Unmeasurable(str(error)) from None


def libraries(tree: pathlib.Path) -> pathlib.Path:
    return next((tree / "usr/lib").glob("*-linux-gnu"))


class Exim(Relay):
    """An Exim daemon with a configuration, spool and log of its own."""

    name = "exim"
    pace = 0.012

    @classmethod
    def version(cls) -> str:
        require((TREE / "usr/sbin/exim4").exists(), "not measured: not here; `make bench-peers` fetches it")
        with gzip.open(TREE / "usr/share/doc/exim4-base/changelog.Debian.gz", "rt", encoding="utf-8") as file:
            return f"Exim {file.readline().split()[1].strip('()')}"

    def start(self) -> None:
        binary = TREE / "usr/sbin/exim4"
        for path in (self.folder / "spool", self.folder / "log"):
            path.mkdir()
            shutil.chown(path, MAIL_USER, MAIL_USER)
        self._write_accounts()
        conf = self.template("exim.conf", folder=self.folder, origin=ORIGIN, binary=binary, user=MAIL_USER,
                             concurrency=CONCURRENCY, port=self.listens[1], address=self.listens[0], no_tls_for="" if self.setting.tls else "*")
        (self.folder / "exim.conf").write_text(conf)
        (self.folder / "start").write_text(f"""set -e
mount --bind '{self.folder}/passwd' /etc/passwd
mount --bind '{self.folder}/group' /etc/group
exec '{binary}' -C '{self.folder}/exim.conf' -bdf -q1m -oP '{self.folder}/exim.pid'
""")
        self.run([tool("unshare"), "-m", "sh", self.folder / "start"], {"LD_LIBRARY_PATH": str(libraries(TREE))})

    def _write_accounts(self) -> None:
        uid, gid = getpwnam(MAIL_USER).pw_uid, getgrnam(MAIL_USER).gr_gid
        passwd, group = pathlib.Path("/etc/passwd").read_text(), pathlib.Path("/etc/group").read_text()
        (self.folder / "passwd").write_text(f"{passwd}{EXIM_USER}:x:{uid}:{gid}:Exim:/:/usr/sbin/nologin\n")
        (self.folder / "group").write_text(f"{group}{EXIM_USER}:x:{gid}:\n")

"""Exim from Debian, unpacked as the end-to-end tests do it, since it cannot be installed beside Postfix. Settings, each with its
reason: bench/peers/exim.conf.

Debian's Exim insists on a user that only its package's installation makes: it runs in a mount namespace of its own, where
/etc/passwd and /etc/group are copies with that user added.
"""

from __future__ import annotations

import pathlib
import shutil
from grp import getgrnam
from pwd import getpwnam

from ..surroundings import RELAY, Unmeasurable
from .base import CONCURRENCY, Relay, output_of
from harness import ORIGIN, tool
from mailservers import EXIM_USER, MAIL_USER, exim_tree


def unpacked() -> pathlib.Path:
    try:
        return exim_tree()
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
        tree = unpacked()
        line = output_of("env", f"LD_LIBRARY_PATH={libraries(tree)}", tree / "usr/sbin/exim4", "-bV", "-C", "/dev/null")
        return " ".join(line.split()[:3])

    def start(self) -> None:
        tree = unpacked()
        binary = tree / "usr/sbin/exim4"
        for path in (self.folder / "spool", self.folder / "log"):
            path.mkdir()
            shutil.chown(path, MAIL_USER, MAIL_USER)
        self._write_accounts()
        conf = self.template("exim.conf", folder=self.folder, origin=ORIGIN, binary=binary, user=MAIL_USER, concurrency=CONCURRENCY,
                             port=RELAY[1], address=RELAY[0], no_tls_for="" if self.setting.tls else "*")
        (self.folder / "exim.conf").write_text(conf)
        (self.folder / "start").write_text(f"""set -e
mount --bind '{self.folder}/passwd' /etc/passwd
mount --bind '{self.folder}/group' /etc/group
exec '{binary}' -C '{self.folder}/exim.conf' -bdf -q1m -oP '{self.folder}/exim.pid'
""")
        self.run([tool("unshare"), "-m", "sh", self.folder / "start"], {"LD_LIBRARY_PATH": str(libraries(tree))})

    def _write_accounts(self) -> None:
        uid, gid = getpwnam(MAIL_USER).pw_uid, getgrnam(MAIL_USER).gr_gid
        passwd, group = pathlib.Path("/etc/passwd").read_text(), pathlib.Path("/etc/group").read_text()
        (self.folder / "passwd").write_text(f"{passwd}{EXIM_USER}:x:{uid}:{gid}:Exim:/:/usr/sbin/nologin\n")
        (self.folder / "group").write_text(f"{group}{EXIM_USER}:x:{gid}:\n")

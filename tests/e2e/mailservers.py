"""Real mail servers as peers, each private to one test: own configuration, queue and mail directory, on loopback."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess

from harness import CACHE, ORIGIN, Process, tool, wait_until

EXIM_PACKAGES = ("exim4-daemon-light", "exim4-base", "libidn12", "libgnutls-dane0", "libnsl2", "libdb5.3",
                 "libpcre2-8-0", "libunbound8", "libevent-2.1-7")
MAIL_USER = "mail"  # of every Debian system
EXIM_USER = "Debian-exim"  # compiled into Debian's Exim


def require_root() -> None:
    if os.geteuid() != 0:
        raise AssertionError("real mail servers switch users: run the tests as root")


def is_open(address: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


def maildir_contents(folder: pathlib.Path) -> list[bytes]:
    """The messages below a maildir, or a folder of maildirs."""
    return [path.read_bytes() for path in sorted(folder.rglob("new/*"))]


class MailServer:
    """What the two have in common: a process that listens, and a maildir."""

    process: Process
    address: str
    port: int
    mail: pathlib.Path

    def _serves(self) -> bool:
        self.process.require_running()
        return is_open(self.address, self.port)

    def messages(self) -> list[bytes]:
        return maildir_contents(self.mail)


class Postfix(MailServer):
    """A Postfix with a configuration directory of its own; mail for ORIGIN's domains goes to a maildir."""

    FRONT = "{address}:{port} inet n - n - - smtpd"
    SERVICES = """
cleanup   unix  n  -  n  -  0  cleanup
qmgr      unix  n  -  n  300 1 qmgr
rewrite   unix  -  -  n  -  -  trivial-rewrite
bounce    unix  -  -  n  -  0  bounce
defer     unix  -  -  n  -  0  bounce
trace     unix  -  -  n  -  0  bounce
verify    unix  -  -  n  -  1  verify
flush     unix  n  -  n  1000? 0 flush
proxymap  unix  -  -  n  -  -  proxymap
error     unix  -  -  n  -  -  error
retry     unix  -  -  n  -  -  error
discard   unix  -  -  n  -  -  discard
local     unix  -  n  n  -  -  local
virtual   unix  -  n  n  -  -  virtual
tlsmgr    unix  -  -  n  1000? 1 tlsmgr
anvil     unix  -  -  n  -  1  anvil
scache    unix  -  -  n  -  1  scache
postlog   unix-dgram n - n - 1  postlogd
"""

    def __init__(self, folder: pathlib.Path, address: str, port: int, domain: str, **settings: str) -> None:
        require_root()
        self.folder, self.address, self.port = folder, address, port
        self.config = folder / "etc"
        self.mail = folder / "mail"
        for path in (self.config, self.mail, folder / "queue", folder / "data"):
            path.mkdir(parents=True)
        os.chmod(folder, 0o755)
        shutil.chown(self.mail, MAIL_USER, MAIL_USER)
        shutil.chown(folder / "data", "postfix")
        (self.config / "main.cf").write_text(self._main_cf(domain, settings))
        (self.config / "master.cf").write_text(self.FRONT.format(address=address, port=port) + self.SERVICES)
        self.process = Process([tool("postfix"), "-c", self.config, "start-fg"], folder, "postfix")
        wait_until(self._serves, "Postfix to listen")

    def _main_cf(self, domain: str, settings: dict[str, str]) -> str:
        from pwd import getpwnam
        mail = getpwnam(MAIL_USER)
        lines = {"compatibility_level": "3.6", "queue_directory": str(self.folder / "queue"),
                 "data_directory": str(self.folder / "data"), "maillog_file": str(self.folder / "postfix.log"),
                 "maillog_file_prefixes": str(self.folder), "myhostname": f"mx1.{domain}", "mydestination": "",
                 "inet_interfaces": "127.0.0.1", "inet_protocols": "ipv4", "mynetworks": "192.0.2.0/24",
                 "alias_maps": "", "alias_database": "", "local_recipient_maps": "", "virtual_mailbox_domains": domain,
                 "virtual_mailbox_base": str(self.mail), "virtual_mailbox_maps": f"static:{domain}/",
                 "virtual_uid_maps": f"static:{mail.pw_uid}", "virtual_gid_maps": f"static:{mail.pw_gid}",
                 "virtual_minimum_uid": "1", "smtpd_relay_restrictions": "reject_unauth_destination",
                 "smtpd_peername_lookup": "no", "notify_classes": "", **settings}
        return "".join(f"{key} = {value}\n" for key, value in lines.items())

    def log(self) -> str:
        return (self.folder / "postfix.log").read_text(errors="replace")

    def stop(self) -> None:
        subprocess.run([tool("postfix"), "-c", str(self.config), "stop"], capture_output=True, timeout=30, check=False)
        self.process.stop()


class Postscreen(Postfix):
    """The same behind postscreen, which greets newcomers with half a greeting and watches whether they wait for the rest."""

    FRONT = """{address}:{port} inet n - n - 1 postscreen
smtpd     pass  -  -  n  -  -  smtpd
dnsblog   unix  -  -  n  -  0  dnsblog
tlsproxy  unix  -  -  n  -  0  tlsproxy"""


def download(folder: pathlib.Path, packages: tuple[str, ...]) -> str:
    """Fetches Debian packages into the folder; returns what went wrong."""
    done = subprocess.run([tool("apt-get"), "download", "-q", *packages], cwd=folder, capture_output=True, text=True,
                          timeout=120, check=False)
    return done.stderr or "apt-get failed" if done.returncode != 0 else ""


def exim_tree() -> pathlib.Path:
    """Exim's packages, unpacked in the cache: they cannot be installed beside Postfix's. `make check` runs this file to
    have them before the tests begin."""
    tree = CACHE / "exim"
    binary = tree / "usr/sbin/exim4"
    if binary.exists():
        return tree
    fetched = CACHE / "exim-packages"
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir(parents=True)
    error = download(fetched, EXIM_PACKAGES)
    if error and os.geteuid() == 0:  # the package lists may name versions that are gone
        subprocess.run([tool("apt-get"), "update", "-q"], capture_output=True, timeout=120, check=False)
        error = download(fetched, EXIM_PACKAGES)
    if error:
        raise AssertionError(f"cannot fetch Exim's packages (put them unpacked into {tree}): {error[-500:]}")
    for package in fetched.glob("*.deb"):
        subprocess.run([tool("dpkg"), "-x", str(package), str(tree)], check=True, capture_output=True)
    return tree


class Exim(MailServer):
    """An Exim with a configuration of its own; all mail for its domain goes to a maildir.

    Debian's Exim insists on a user that only its package's installation makes. nss_wrapper shows it copies of
    /etc/passwd and /etc/group with that user added."""

    def __init__(self, folder: pathlib.Path, address: str, port: int, domain: str, **settings: str) -> None:
        require_root()
        self.folder, self.address, self.port = folder, address, port
        self.mail = folder / "mail"
        for path in (self.mail, folder / "spool", folder / "log"):
            path.mkdir(parents=True)
            shutil.chown(path, MAIL_USER, MAIL_USER)
        os.chmod(folder, 0o755)
        self._write_accounts()
        tree = exim_tree()
        self.binary = tree / "usr/sbin/exim4"
        self.libraries = next((tree / "usr/lib").glob("*-linux-gnu"))
        (folder / "exim.conf").write_text(self._configuration(domain, settings))
        arguments = [self.binary, "-C", folder / "exim.conf", "-bdf", "-oX", f"{address}.{port}", "-oP", folder / "exim.pid"]
        environment = {"LD_LIBRARY_PATH": str(self.libraries), "LD_PRELOAD": "libnss_wrapper.so",
                       "NSS_WRAPPER_PASSWD": str(folder / "passwd"), "NSS_WRAPPER_GROUP": str(folder / "group")}
        self.process = Process(arguments, folder, "exim", environment)
        wait_until(self._serves, "Exim to listen")

    def _write_accounts(self) -> None:
        from grp import getgrnam
        from pwd import getpwnam
        uid, gid = getpwnam(MAIL_USER).pw_uid, getgrnam(MAIL_USER).gr_gid
        passwd, group = pathlib.Path("/etc/passwd").read_text(), pathlib.Path("/etc/group").read_text()
        (self.folder / "passwd").write_text(f"{passwd}{EXIM_USER}:x:{uid}:{gid}:Exim:/:/usr/sbin/nologin\n")
        (self.folder / "group").write_text(f"{group}{EXIM_USER}:x:{gid}:\n")

    def _configuration(self, domain: str, settings: dict[str, str]) -> str:
        more = "".join(f"{key} = {value}\n" for key, value in settings.items())
        return f"""primary_hostname = mx1.{domain}
exim_user = {MAIL_USER}
exim_group = {MAIL_USER}
deliver_drop_privilege = true
exim_path = {self.binary}
keep_environment = ^LD_ : ^NSS_WRAPPER_
spool_directory = {self.folder}/spool
log_file_path = {self.folder}/log/%s
local_interfaces = {self.address}
domainlist local_domains = {domain}
never_users =
acl_smtp_rcpt = check_rcpt
acl_smtp_data = check_data
host_lookup =
rfc1413_query_timeout = 0s
tls_advertise_hosts =
accept_8bitmime = true
smtp_accept_queue_per_connection = 0
dsn_advertise_hosts = *
chunking_advertise_hosts = *
{more}
begin acl
check_rcpt:
  accept domains = +local_domains
  deny message = relay not permitted
check_data:
  accept
begin routers
everybody:
  driver = accept
  transport = maildir
begin transports
maildir:
  driver = appendfile
  directory = {self.mail}
  maildir_format
  create_directory
  user = {MAIL_USER}
  group = {MAIL_USER}
"""

    def log(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted((self.folder / "log").iterdir()))

    def stop(self) -> None:
        self.process.stop()


def domain_of(label: str) -> str:
    return f"{label}.{ORIGIN}"


if __name__ == "__main__":
    try:
        exim_tree()
    except AssertionError as error:
        print(error)  # the tests that need it fail, and say so again

"""README's commands, taken from README.md and run word for word as a new user's root would, in namespaces of their own: a copy
of /etc, empty /var/lib, /var/log and /run, and only the loopback network. What they say must come true."""

from __future__ import annotations

import email
import email.policy
import json
import os
import pathlib
import re
import subprocess
import tempfile

from harness import BINARY, E2ETest, ROOT, main, tool

# What a reader's own hands do between the lines.
WAIT_FOR_RELAY = "for i in $(seq 1200); do onward status > /dev/null 2>&1 && break; sleep 0.05; done\n"
SERVE = "onward serve 2> /var/log/onward.json &\n"
RELOAD = "kill -HUP %1"
WAIT_FOR_RELOAD = "for i in $(seq 1200); do grep -q '\"reloaded\"' /var/log/onward.json && break; sleep 0.05; done\n"
SURROUNDINGS = """
set -e
ip link set lo up
cp -a /etc/. "$1/etc/"
mount --bind "$1/etc" /etc
for folder in /var/lib /var/log /run; do mount -t tmpfs tmpfs $folder; done
rm -rf /etc/onward
mkdir /etc/onward
userdel onward 2> /dev/null || true
set +e
"""


def blocks(heading: str) -> list[str]:
    """The command blocks below a heading of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"README.md has no heading {heading!r}"
    return re.findall(r"^```\n(.*?)^```$", section.group(1), re.MULTILINE | re.DOTALL)


class Readme(E2ETest):
    limit_s = 300

    def run_as_root(self, script: str) -> str:
        """Runs it with `onward` where `make install` puts it, for all the script can tell; returns what it said."""
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="onward-readme-")))
        folder.chmod(0o755)
        (folder / "etc").mkdir()
        (folder / "bin").mkdir()
        (folder / "bin/onward").symlink_to(BINARY)
        (folder / "script").write_text(SURROUNDINGS + script)
        path = f"{folder}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        done = subprocess.run([tool("unshare"), "-mn", "--propagation", "private", tool("bash"), folder / "script", folder],
                              capture_output=True, text=True, timeout=self.limit_s, check=False, cwd=folder,
                              env={**os.environ, "PATH": path})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.said = done.stderr
        return done.stdout

    def first_steps(self) -> str:
        """The block of "Send one message" but for its first line, which builds and installs."""
        [block] = blocks("Send one message")
        install, _, rest = block.partition("\n")
        self.assertTrue(install.startswith("make deps-build install"), install)
        self.assertIn(SERVE, rest)
        return rest

    def test_one_message_is_sent_looked_at_and_traced(self) -> None:
        steps = self.first_steps().replace(SERVE, SERVE + WAIT_FOR_RELAY)
        out = self.run_as_root(steps.replace("onward queue ", "echo ---queue\nonward queue ") +
                               "echo ---end\nid -u onward\nps -o user= -p $(pgrep -xf 'onward serve')\n"
                               "onward suspend list\nkill %1; wait %1; echo status $?\n")
        self.assertIn("someone@example.net", out)
        self.assertIn("example.net: suspended for 2h", out)
        end = out.partition("---end\n")[2]
        self.assertIn("onward", end.splitlines()[1], "it does not run as its user")
        self.assertRegex(end, r"example\.net +\S+ +1h59m|example\.net +\S+ +2h")
        self.assertIn("status 0", end)
        self.assertNotIn("usage", out + self.said)
        self.assertNotIn("unknown command", self.said)

    def test_mail_is_injected_over_http_as_it_is_written(self) -> None:
        lines = self.first_steps()
        before = lines[:lines.index(SERVE) + len(SERVE)] + WAIT_FOR_RELAY
        [block] = blocks("Inject over HTTP")
        self.assertIn(f"\n{RELOAD} ", block)
        out = self.run_as_root(before + block.replace("\ncurl", "\n" + WAIT_FOR_RELOAD + "curl") +
                               "\necho\necho ---show\nonward queue show --json "
                               "$(onward queue list --json | sed -n 's/.*\"id\":\"\\([0-9a-f]*\\)\".*/\\1/p') --content\n"
                               "kill %1; wait\n")
        answer, _, shown = out.partition("---show\n")
        result = json.loads(answer.strip().splitlines()[-1])
        self.assertEqual([recipient["email"] for recipient in result["recipients"]], ["ann@example.net"])
        self.assertIn("id", result["recipients"][0])
        content = next(json.loads(line)["content"] for line in shown.splitlines() if '"content"' in line)
        message = email.message_from_string(content, policy=email.policy.default)
        self.assertEqual((message["Subject"], message["To"], message["From"]),
                         ("Welcome, Ann", "Ann <ann@example.net>", "News <news@example.org>"))
        text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
        self.assertEqual(text.get_content().strip(), "Hello Ann, your code is 4711.")
        self.assertEqual(html.get_content().strip(), "<p>Hello <b>Ann</b></p>")


if os.geteuid() != 0:
    del Readme  # README says "as root"

if __name__ == "__main__":
    main()

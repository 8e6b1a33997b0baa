"""What is installed beside the binary keeps up with it: manual, completion, unit, configuration."""

from __future__ import annotations

import pathlib
import re
import subprocess

from harness import E2ETest, ROOT, main, onward, tool

COMPLETION = ROOT / "workers/packaging/onward.bash"
MANUAL = ROOT / "workers/packaging/onward.8"
SOURCES = ROOT / "workers/cli"


def commands() -> dict[str, str]:
    """The commands and their usage, as `onward help` lists them."""
    found = re.findall(r"^  ([a-z-]+)(.*?)(?: {2,}|$)", onward("help").stdout, re.MULTILINE)
    return dict(found)


def options() -> set[str]:
    """Every long option that a command compares its arguments with."""
    return {option for path in SOURCES.glob("*.c") for option in re.findall(r'"(--[a-z][a-z-]*)"', path.read_text())}


def complete(*words: str) -> list[str]:
    """What bash offers for the last of these words."""
    script = f"""source '{COMPLETION}'
COMP_WORDS=(onward "$@"); COMP_CWORD=$#
_onward
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([tool("bash"), "-c", script, "bash", *words], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "", done.stderr
    return done.stdout.split()


class Completion(E2ETest):
    def test_it_offers_every_command(self) -> None:
        self.assertEqual(set(commands()) - set(complete("")), set())
        self.assertEqual(complete("check"), ["check-config"])

    def test_it_offers_what_a_command_may_begin_with(self) -> None:
        for command, usage in commands().items():
            alternatives = re.match(r" \[([^\[\]]*\|[^\[\]]*)", usage)
            for alternative in alternatives.group(1).split("|") if alternatives else []:
                with self.subTest(command=command):
                    self.assertIn(alternative.split()[0], complete(command, ""))

    def test_it_offers_every_option_somewhere(self) -> None:
        offered = set(re.findall(r"--[a-z-]+", COMPLETION.read_text()))
        self.assertEqual(options() - offered - {"--help"}, set())

    def test_it_offers_files_and_states(self) -> None:
        self.assertIn(str(COMPLETION), complete("serve", "-c", str(COMPLETION)[:-3]))
        self.assertIn(str(COMPLETION), complete("check-config", str(COMPLETION)[:-3]))
        self.assertEqual(complete("queue", "list", "--state", "de"), ["deferred"])


class Manual(E2ETest):
    text = MANUAL.read_text().replace("\\-", "-")

    def test_it_has_every_command(self) -> None:
        for command in commands():
            with self.subTest(command=command):
                self.assertRegex(self.text, rf"(?m)^\.BR? \"?{command}\b")

    def test_it_has_every_option(self) -> None:
        self.assertEqual({option for option in options() if option not in self.text} - {"--help", "--version"}, set())


class Installation(E2ETest):
    """`make install` into a staged tree."""

    def install(self, *variables: str) -> pathlib.Path:
        tree = self.world().folder / "tree"
        subprocess.run([tool("make"), "-s", "-C", ROOT, "-o", "all", "install", f"DESTDIR={tree}", *variables], check=True,
                       capture_output=True, timeout=180)
        return tree

    def test_everything_stands_below_destdir_and_prefix(self) -> None:
        tree = self.install("PREFIX=/opt/onward")
        installed = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()}
        outside = {path for path in installed if not path.startswith("opt/onward/")}
        self.assertEqual(outside, {"etc/onward/onward.yaml"})
        self.assertIn("ExecStart=/opt/onward/sbin/onward ",
                      (tree / "opt/onward/lib/systemd/system/onward.service").read_text())

    def test_a_configuration_that_is_there_stays(self) -> None:
        tree = self.install()
        path = tree / "etc/onward/onward.yaml"
        path.write_text("hostname: mine.example.net\n")
        subprocess.run([tool("make"), "-s", "-C", ROOT, "-o", "all", "install", f"DESTDIR={tree}"], check=True,
                       capture_output=True, timeout=180)
        self.assertEqual(path.read_text(), "hostname: mine.example.net\n")

    def test_the_manual_of_the_configuration_has_every_key(self) -> None:
        tree = self.install("PREFIX=/usr")
        page = (tree / "usr/share/man/man5/onward.yaml.5").read_text()
        section, keys = "", set()
        for line in (ROOT / "core/config/onward.yaml").read_text().splitlines():
            if found := re.fullmatch(r"([a-z_]+):", line):
                section = found.group(1) + "."
            elif found := re.match(r"( *)#?([a-z_0-9]+): ", line):
                keys.add((section if found.group(1) else "") + found.group(2))
        self.assertGreater(len(keys), 50)
        self.assertEqual(keys, set(re.findall(r"(?m)^\\fB([a-z_.0-9]+)\\fR: ", page)))


if __name__ == "__main__":
    main()

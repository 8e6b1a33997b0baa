"""The web page and `onward top`: what they show of a relay at work, and that no peer can put markup into the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from typing import Any, Iterable

from browser import Browser
from harness import BINARY, E2ETest, ORIGIN, Ports, WAIT_LIMIT, main, wait_until

SENDER = f"sender@{ORIGIN}"
TOKEN = "0123456789abcdef" * 4
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Shown(E2ETest):
    limit_s = 120

    def start(self, *behaviours: str, deferring: Iterable[str] = ()) -> None:
        """A relay with a domain of these behaviours, and others that defer everything."""
        self.w = self.world()
        self.port = Ports.take()
        tokens = self.w.folder / "tokens"
        tokens.write_text(f"viewer read {TOKEN}\n")
        tokens.chmod(0o600)
        self.w.relay.write_config(http={"listen": [{"address": f"127.0.0.1:{self.port}"}], "token_file": str(tokens)})
        self.domain, self.addresses = self.w.domain("one", *behaviours)
        self.deferring = [self.w.domain(label, "reply@RCPT=450 4.2.0 later")[0] for label in deferring]
        self.relay = self.w.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def view(self, history: bool = False) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}api/control/view{'?history=true' if history else ''}",
                                         headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=WAIT_LIMIT) as answer:
            return json.load(answer)

    def fail_some(self) -> None:
        """A bounce whose text is markup, and a message that gets through."""
        self.start(f"reply@RCPT/bad=550 5.1.1 {HOSTILE}")
        self.relay.send(SENDER, [f"bad@{self.domain}"], "bad")
        self.relay.send(SENDER, [f"good@{self.domain}"], "good")
        self.relay.wait_logged("bounced")
        self.relay.wait_logged("delivered")
        wait_until(self.is_shown, "the view to tell of both")

    def is_shown(self) -> bool:
        view = self.view()
        return any(f["kind"] == "bounced" for f in view["failures"]) and len(view["exchanges"]) > 0


class Page(Shown):

    def browse(self, fragment: str = "", *options: str) -> str:
        """What a browser makes of the page once it has asked for its figures."""
        chromium = shutil.which("chromium")
        if chromium is None:
            raise AssertionError("chromium is missing; install it with: apt-get install chromium")
        with tempfile.TemporaryDirectory() as profile:
            done = subprocess.run(
                [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 f"--user-data-dir={profile}", "--virtual-time-budget=6000", "--dump-dom", *options,
                 self.url + fragment], capture_output=True, text=True, timeout=240, check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        return done.stdout

    def test_it_shows_figures_exchanges_and_failures_and_no_markup_of_a_peer(self) -> None:
        self.fail_some()
        page = self.browse("#" + TOKEN)
        body = page[page.index("</style>"):page.index("<script>\n")]
        self.assertIn(f"mx1.{self.domain}", body)
        self.assertIn("bounced", body)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;", body, "the reply is not shown as it is")
        self.assertNotIn("<img", body)
        self.assertEqual(page.count("<script"), 1)
        self.assertNotIn(TOKEN, page)

    def test_at_the_width_of_a_phone_nothing_is_wider_than_it_light_or_dark(self) -> None:
        name = "a-domain-of-a-customer-with-a-very-long-name"
        self.start("silent@GREETING", f"reply@RCPT/bad=550 5.1.1 {'no-space-anywhere/' * 8}")
        self.relay.run("suspend", f"{name}.example.org", "--for", "2h", "--reason", "asked-by-their-postmaster-" * 5)
        self.relay.send(SENDER, [f"bad@{self.domain}"], "bad")
        self.relay.send(SENDER, ["r@suspended.example.org", f"r@{name}.example.org"], "other")
        self.relay.wait_logged("bounced")
        browser = Browser()
        self.addCleanup(browser.close)
        grounds = set()
        for width, height, scheme in ((390, 844, "light"), (390, 844, "dark"), (1280, 900, "light"), (1280, 900, "dark")):
            with self.subTest(width=width, scheme=scheme):
                browser.open(f"{self.url}?{width}{scheme}#{TOKEN}", width, height, scheme)
                wait_until(lambda: browser.evaluate("document.getElementById('suspended-table')?.innerText.includes('postmaster')"
                                                    " && document.querySelectorAll('#exchange-table tbody tr').length > 1"),
                           "the page to show its figures")
                self.assertEqual(browser.evaluate("innerWidth"), width)
                self.assertLessEqual(browser.evaluate("document.scrollingElement.scrollWidth"), width)
                wide = browser.evaluate("[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > e.clientWidth)"
                                        ".map((e) => e.id)")
                self.assertEqual(wide, [], "must be pushed about to be read")
                grounds.add((scheme, browser.evaluate("getComputedStyle(document.body).backgroundColor")))
        self.assertEqual(len(grounds), 2, "light and dark look the same")

    def test_without_a_token_it_asks_for_one_and_shows_nothing(self) -> None:
        self.fail_some()
        page = self.browse()
        self.assertIn("waiting for a token", page)
        self.assertNotIn(self.domain, page[page.index("</style>"):page.index("<script>\n")])

    def test_a_token_that_is_refused_is_told_why(self) -> None:
        self.start("good")
        (self.w.folder / "tokens").write_text(f"viewer read {TOKEN}\nmailer inject {'m' * 32}\n")
        assert self.relay.process is not None
        self.relay.process.signal(signal.SIGHUP)
        self.relay.wait_logged("reloaded")
        for token, words in (("m" * 32, "the token of mailer lacks the scope"), ("x" * 32, "this token is not in http.token_file")):
            self.assertIn(words, self.browse(f"#{token}"))

    def test_nothing_comes_from_elsewhere_and_the_policy_says_so(self) -> None:
        self.start("good")
        with urllib.request.urlopen(self.url, timeout=WAIT_LIMIT) as answer:
            policy, text = answer.headers["Content-Security-Policy"], answer.read().decode()
        self.assertIn("default-src 'none'", policy)
        self.assertNotIn("unsafe", policy)
        self.assertNotIn("innerHTML", text)
        self.assertEqual(re.findall(r"(?:src|href)=\"(?!data:,)[^\"]*\"", text), [])
        self.assertEqual(set(re.findall(r"https?://[^\"' ]*", text)), {"http://www.w3.org/2000/svg"})

    def test_the_view_needs_a_token(self) -> None:
        self.start("good")
        with self.assertRaises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{self.url}api/control/view", timeout=WAIT_LIMIT)
        self.assertEqual(refused.exception.code, 401)
        refused.exception.close()


class View(Shown):

    def test_failures_of_one_kind_are_one_line_with_their_count(self) -> None:
        self.start("reply@RCPT=550 5.1.1 no such user")
        for i in range(5):
            self.relay.send(SENDER, [f"r{i}@{self.domain}"], f"m{i}")
        self.relay.wait_logged("bounced", 5, code=550)
        def told() -> list[dict[str, Any]]:
            return [f for f in self.view()["failures"] if f["kind"] == "bounced" and "exchange" in f]
        wait_until(lambda: sum(f["count"] for f in told()) >= 5, "all failures to be counted")
        failures = told()
        self.assertEqual([(f["count"], f["reply"]["code"], f["exchange"]) for f in failures],
                         [(5, 550, f"mx1.{self.domain}")])

    def test_races_and_changes_of_health_are_told_by_exchange(self) -> None:
        self.start("silent@GREETING", "good")
        self.relay.send(SENDER, [f"r@{self.domain}"], "m")
        self.relay.wait_logged("delivered")
        wait_until(lambda: sum(e["races_won"] for e in self.view()["exchanges"]) > 0 and self.view(history=True)["samples"],
                   "the race to be counted")
        view = self.view(history=True)
        by_address = {e["address"]: e for e in view["exchanges"]}
        slow, good = (by_address[a] for a in self.addresses)
        self.assertEqual((slow["races_lost"], slow["state"], slow["name"]), (1, "suspect", f"mx1.{self.domain}"))
        self.assertEqual((good["races_won"], good["state"]), (1, "healthy"))
        self.assertIn((self.addresses[0], "healthy", "suspect"),
                      [(c["address"], c["before"], c["now"]) for c in view["changes"]])
        self.assertGreaterEqual(len(view["samples"]), 1)

    def test_the_queue_is_told_by_domain_and_age(self) -> None:
        self.start("reply@RCPT=450 4.2.0 later")
        for i in range(3):
            self.relay.send(SENDER, [f"r{i}@{self.domain}", f"s{i}@{self.domain}"], f"m{i}")
        self.relay.wait_logged("deferred", 6)
        queue = wait_until(lambda: (q := self.view()["queue"])["domains"] and q["domains"][0]["deferred"] == 6 and q,
                           "the survey to be renewed")
        self.assertEqual((queue["domains"][0]["domain"], queue["domains"][0]["recipients"]), (self.domain, 6))
        self.assertEqual((queue["complete"], queue["scanned"], sum(queue["ages"].values())), (True, 3, 6))


class Top(Shown):

    def test_away_from_a_terminal_it_prints_plain_lines(self) -> None:
        self.fail_some()
        done = self.relay.run("top")
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("delivered", f"mx1.{self.domain}", "healthy", "bounced", "550"):
            self.assertIn(word, done.stdout)
        self.assertNotIn("\x1b", done.stdout)

    def terminal(self, columns: int, rows: int) -> None:
        """Runs `onward top` on a terminal of this size."""
        program = shutil.which("tmux")
        if program is None:
            raise AssertionError("tmux is missing; install it with: apt-get install tmux")
        self.tmux_command = [program, "-S", str(self.w.folder / "tmux.sock")]
        command = shlex.join([str(BINARY), "top", "-c", str(self.relay.config_path)])
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "env", "TERM=screen", "sh",
                  "-c", f"{command}; echo ended with $?; sleep 60")
        self.addCleanup(subprocess.run, [*self.tmux_command, "kill-server"], capture_output=True, check=False)
        self.tmux("set", "-g", "status", "off")

    def tmux(self, *arguments: str) -> str:
        return subprocess.run([*self.tmux_command, *arguments], capture_output=True, text=True, check=True).stdout

    def screen(self) -> list[str]:
        return self.tmux("capture-pane", "-p").split("\n")[:-1]

    def wait_shown(self, *words: str) -> list[str]:
        return wait_until(lambda: all(w in "\n".join(self.screen()) for w in words) and self.screen(), f"{words} on the screen")

    def test_on_a_terminal_of_80_by_24_it_draws_sorts_and_quits(self) -> None:
        self.fail_some()
        self.terminal(80, 24)
        lines = self.wait_shown(f"mx1.{self.domain}", "550")
        self.assertLessEqual(max(len(line) for line in lines), 80)
        self.tmux("send-keys", "n")
        self.wait_shown("by name")
        self.tmux("send-keys", "q")
        self.wait_shown("ended with 0")

    def test_it_fits_a_terminal_of_any_size_also_one_that_changes(self) -> None:
        long = ".".join(("a" * 63, "b" * 63, "c" * 50))
        self.start("good", deferring=[long, *(f"d{n}" for n in range(2))])
        for name in self.deferring:
            self.relay.send(SENDER, [f"r@{name}"], name[:9])
        self.relay.run("suspend", "x" * 63 + ".example.org", "--for", "26h", "--reason", "asked by their postmaster " * 5)
        self.relay.wait_logged("deferred", len(self.deferring))
        wait_until(lambda: len(self.view()["queue"]["domains"]) == len(self.deferring), "the survey to be renewed")
        self.terminal(80, 24)
        for columns, rows in ((80, 24), (40, 12), (120, 40), (40, 12), (20, 5), (80, 24)):
            with self.subTest(columns=columns, rows=rows):
                self.tmux("resize-window", "-x", str(columns), "-y", str(rows))
                lines = wait_until(lambda: (s := self.screen())[-1].startswith(" q quit") and len(s) == rows and
                                   s[0].startswith("relay.") and s, "the first line, and the keys on the last")
                self.assertEqual(sum(line.startswith(" q quit") for line in lines), 1, "left from before")
                self.assertEqual(sum(line.startswith("relay.") for line in lines), 1, "left from before")
                self.assertLessEqual(max(map(len, lines)), columns)
                if rows < 12:
                    continue
                heads = [line.split()[0] for line in lines if line.strip()]
                for head in ("SUSPENDED", "EXCHANGE", "AGO", *(["DOMAIN"] if rows >= 24 else [])):
                    self.assertEqual(heads.count(head), 1, lines)
                table = lines[next(i for i, line in enumerate(lines) if line.startswith("EXCHANGE")):]
                ends = {len(line) for line in table[:3]}
                self.assertEqual(ends, {columns}, "a row that is wider or narrower than its heading")
                self.assertTrue(any(line.startswith("mx1.aaa") and "~ " in line for line in lines) or rows == 12, lines)


if __name__ == "__main__":
    main()

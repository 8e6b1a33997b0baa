"""Secrets stay where they were configured: no log, answer, figure or complaint shows one."""

from __future__ import annotations

import signal
from typing import Any

from harness import main
from test_events import Receiver
from test_http import SENDER, TOKENS, HttpTest

PASSWORD = "hook-pass-zanzibar"
MISTYPED = "hook@pass-lhasa"  # an "@" must be written %40 there
QUERY = "query-key-timbuktu"
HOOK_TOKEN = "hook-token-samarkand-0123456789abcdef"
WRONG_TOKEN = "wrong-token-xanadu-0123456789abcdef0123456789"
SHORT_TOKEN = "short-bukhara"
SECRETS = [PASSWORD, *MISTYPED.split("@")[1:], QUERY, HOOK_TOKEN, WRONG_TOKEN, SHORT_TOKEN,
           *(token for _, token in TOKENS.values())]
COMMANDS = [("status",), ("queue", "list"), ("health",), ("suspend",), ("check-config",)]


class Secrets(HttpTest):
    def configure(self) -> None:
        self.w = self.http_world()
        self.receiver = Receiver(self.w)
        self.hook_token = self.w.folder / "hook.token"
        self.hook_token.write_text(HOOK_TOKEN + "\n")
        port = self.receiver.server.server_address[1]
        self.hook = {"url": f"http://user:{PASSWORD}@localhost:{port}/hook?key={QUERY}", "max_delay": "10ms",
                     "token_file": str(self.hook_token)}
        self.relay = self.w.relay
        self.relay.write_config(events={"webhooks": [self.hook]})

    def reload(self, answer: str) -> None:
        """Until the log has one more line that says so."""
        assert self.relay.process is not None
        before = len(self.relay.logged(answer))
        self.relay.process.signal(signal.SIGHUP)
        self.relay.wait_logged(answer, before + 1)

    def provoke(self) -> None:
        """All that could make somebody speak of a secret: what fails, what is refused, what is asked with a wrong one."""
        self.receiver.status = 500
        self.relay.send(SENDER, [f"r@{self.domain}"], "m")
        self.relay.wait_logged("webhook_failed")
        self.receiver.stop()
        self.relay.wait_logged("webhook_failed", 2)
        for token in (*TOKENS, WRONG_TOKEN):
            for path in ("/metrics", "/api/control/status", "/api/control/view", "/nothing"):
                self.note(self.ask("GET", path, token=token))
        self.note(self.ask("POST", "/api/inject/v1", {"recipients": WRONG_TOKEN}, token=WRONG_TOKEN))
        tokens = self.w.folder / "tokens"
        good = tokens.read_text()
        tokens.write_text(good + f"late inject {SHORT_TOKEN}\n")
        self.reload("tokens_not_reloaded")
        tokens.write_text(good)
        self.relay.write_config(events={"webhooks": [{**self.hook, "url": f"htp://user:{PASSWORD}@localhost/{QUERY}"}]})
        self.reload("reload_refused")
        self.note(self.relay.run("check-config"))
        mistyped = {**self.hook, "url": f"http://user:{MISTYPED}@localhost/hook"}
        self.relay.write_config(events={"webhooks": [mistyped]})
        self.note(self.relay.run("check-config"))
        self.relay.write_config(events={"webhooks": [self.hook, self.hook]})
        self.reload("reload_refused")
        self.note(self.relay.run("check-config"))
        self.relay.write_config(events={"webhooks": [self.hook]})

    def note(self, said: Any) -> None:
        self.said.append(str(said[1:]) if isinstance(said, tuple) else said.stdout + said.stderr)

    def test_no_secret_is_in_any_log_answer_or_figure(self) -> None:
        self.said: list[str] = []
        self.configure()
        self.domain, _ = self.w.domain("one", "good")
        self.start(self.w)
        self.provoke()
        for command in COMMANDS:
            self.note(self.relay.run(*command))
            if command != ("check-config",):
                self.note(self.relay.run(*command, "--json"))
        self.note(self.ask("GET", "/metrics"))
        self.note(self.ask("GET", "/api/control/view"))
        self.assertIn("localhost", "".join(self.said))  # the webhook is spoken of, without its secrets
        self.relay.terminate()
        for path in sorted(self.relay.folder.rglob("*")):
            if path.is_file() and path.suffix != ".yaml" and "spool" not in path.parts:
                self.said.append(path.read_text(errors="replace"))
        self.assertIn("webhook_failed", "".join(self.said))
        for secret in SECRETS:
            for text in self.said:
                at = text.find(secret)
                self.assertLess(at, 0, f"{secret} stands in: {text[max(0, at - 200):at + 100]}")


if __name__ == "__main__":
    main()

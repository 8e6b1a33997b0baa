"""A headless Chromium that a test drives by its debugging pipe (the DevTools protocol, messages parted by NUL): pages of any
width, light and dark, looked at and measured as they are laid out."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import select
import subprocess
import tempfile
import time
from typing import Any

from harness import tool

ANSWER_LIMIT_S = 60


class Browser:
    """One browser with one page. To be closed."""

    def __init__(self) -> None:
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self.to_browser = os.pipe()
        self.from_browser, to_write = os.pipe()

        def set_pipes() -> None:  # it reads 3 and writes 4
            spare_read, spare_write = os.dup2(to_read, 20), os.dup2(to_write, 21)
            os.dup2(spare_read, 3)
            os.dup2(spare_write, 4)
        self.process = subprocess.Popen(
            [tool("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
             "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={self.profile.name}", "about:blank"],
            preexec_fn=set_pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.received = b""
        self.number = 0
        self.session: str | None = None
        target = next(t for t in self._until_target() if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]

    def _until_target(self) -> list[dict[str, Any]]:
        end = time.monotonic() + ANSWER_LIMIT_S
        while True:
            targets = self.call("Target.getTargets")["targetInfos"]
            if any(t["type"] == "page" for t in targets):
                return targets
            if time.monotonic() > end:
                raise AssertionError("chromium opens no page")
            time.sleep(0.05)

    def _message(self, end: float) -> dict[str, Any]:
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.from_browser], [], [], max(0, end - time.monotonic()))
            data = os.read(self.from_browser, 1 << 20) if ready else b""
            if not data:
                raise AssertionError(f"chromium says nothing (status {self.process.poll()})")
            self.received += data
        text, _, self.received = self.received.partition(b"\0")
        return json.loads(text)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Asks the browser, or its page where there is one, and waits for the answer."""
        self.number += 1
        request = {"id": self.number, "method": method, "params": parameters}
        if self.session is not None:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.to_browser, data):]
        end = time.monotonic() + ANSWER_LIMIT_S
        while True:
            message = self._message(end)
            if message.get("id") != self.number:
                continue
            if "error" in message:
                raise AssertionError(f"{method}: {message['error']}")
            return message["result"]

    def open(self, url: str, width: int, height: int, scheme: str = "light") -> None:
        """As a window of this size shows it; under 600 pixels, as a phone does."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """What the expression is in the page; the page's own policy has no say in it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: pathlib.Path) -> None:
        """The whole page, however long, as a PNG file."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)
        self.profile.cleanup()

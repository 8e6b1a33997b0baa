"""Says on standard error what is being measured, and how long the rest will take."""

from __future__ import annotations

import sys
import time
from typing import Any

SHOWN = (("per_s", "{:,.0f}/s"), ("cpu_us", "{:,.0f} us CPU"), ("syncs_each", "{:.3f} syncs"),
         ("first_s", "first after {:.2f} s"), ("seconds", "{:.2f} s"), ("kb_each", "{:.1f} KB each"), ("bytes_each", "{:.0f} bytes each"))


class Progress:
    """One line a run; on a terminal, also while it runs."""

    def __init__(self, total: int) -> None:
        self.total, self.done = total, 0
        self.began = time.monotonic()

    def _head(self, what: str) -> str:
        passed = time.monotonic() - self.began
        left = f", about {passed / self.done * (self.total - self.done) / 60:.0f} min left" if self.done > 2 else ""
        return f"[{self.done + 1:3}/{self.total} {passed / 60:4.1f} min{left}] {what}"

    def start(self, what: str) -> None:
        self.what = what
        if sys.stderr.isatty():
            print(f"\r\033[K{self._head(what)} ...", end="", file=sys.stderr, flush=True)

    def end(self, figures: dict[str, Any]) -> None:
        found = ", ".join(form.format(figures[key]) for key, form in SHOWN
                          if isinstance(figures.get(key), (int, float)))
        text = f"FAILED: {figures['failed']}" if "failed" in figures else found
        clear = "\r\033[K" if sys.stderr.isatty() else ""
        print(f"{clear}{self._head(self.what)}: {text}", file=sys.stderr, flush=True)
        self.done += 1

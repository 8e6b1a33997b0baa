"""The relays that are measured, each behind the same interface (base.Relay)."""

from __future__ import annotations

from .base import Relay, Setting
from .exim import Exim
from .haraka import Haraka
from .onward import Onward
from .postfix import Postfix

ALL: tuple[type[Relay], ...] = (Onward, Postfix, Exim, Haraka)
BY_NAME = {relay.name: relay for relay in ALL}

__all__ = ["ALL", "BY_NAME", "Exim", "Haraka", "Onward", "Postfix", "Relay", "Setting"]

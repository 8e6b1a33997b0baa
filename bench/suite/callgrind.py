"""Reads what valgrind's callgrind wrote: instructions by function and file, and how often functions were called.

The format (valgrind's manual, chapter "Callgrind Format Specification"): a position line such as `fn=(12) name` names
what the cost lines that follow belong to; a name stands in full the first time its number is used. `calls=N ...` says
that the function named by the `cfn=` before it was called N times, and the line that follows it holds the cost of the
calls, which is not the caller's own.
"""

from __future__ import annotations

import collections
import pathlib
import re

POSITION = re.compile(r"^(c?(?:ob|fl|fi|fe|fn))=\((\d+)\)(?: (.*))?$")
KIND = {"ob": "ob", "cob": "ob", "fn": "fn", "cfn": "fn", "fl": "fl", "fi": "fl", "fe": "fl", "cfl": "fl", "cfi": "fl",
        "cfe": "fl"}


class Profile:
    """`own`: instructions by (object, file, function). `calls`: by function."""

    def __init__(self, path: pathlib.Path) -> None:
        self.own: collections.Counter[tuple[str, str, str]] = collections.Counter()
        self.calls: collections.Counter[str] = collections.Counter()
        self._names: dict[tuple[str, str], str] = {}
        self._at = {"ob": "", "fl": "", "fn": ""}
        self._called = ""
        self._is_of_call = False
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                self._take(line.rstrip("\n"))

    @property
    def total(self) -> int:
        return sum(self.own.values())

    def _take(self, line: str) -> None:
        position = POSITION.match(line)
        if position:
            self._move(*position.groups())
        elif line.startswith("calls="):
            self.calls[self._called] += int(line[6:].split()[0])
            self._is_of_call = True
        elif line and (line[0].isdigit() or line[0] in "+-*"):
            if not self._is_of_call:
                self.own[self._at["ob"], self._at["fl"], self._at["fn"]] += int(line.split()[-1])
            self._is_of_call = False

    def _move(self, tag: str, number: str, name: str | None) -> None:
        kind = KIND[tag]
        if name is not None:
            self._names[kind, number] = name
        named = self._names.get((kind, number), "")
        if tag == "cfn":
            self._called = named
        elif not tag.startswith("c"):
            self._at[kind] = named

"""Storage whose calls are counted as an object store would be paid for them."""

from __future__ import annotations

from collections import Counter

READS = frozenset({"exists", "isfile", "get_file"})
WRITES = frozenset({"put_file", "ls", "find", "rm"})


class CountedStore:
    """A file system that counts what would be requests, by the price class of an object store."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> object:
        if name in READS or name in WRITES:
            self.requests["reads" if name in READS else "writes"] += 1
        return getattr(self._inner, name)

"""Locks that a forked child finds open, for the threads that hold them stay with its parent."""

from __future__ import annotations

import os
import threading
from weakref import WeakSet

__all__ = ["ForkableLock"]


class ForkableLock:
    """A lock to hold in a `with`, whose block forks nowhere and replaces what it guards whole: in a
    child, what a thread of the parent was about to set is not set."""

    def __init__(self) -> None:
        self._open()
        _all.add(self)

    def _open(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_all: WeakSet[ForkableLock] = WeakSet()


def _open_all() -> None:
    for lock in _all:
        lock._open()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open_all)

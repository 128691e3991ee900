"""Engines of one process that load the same bundle in the same way share one loaded graph."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from vmoe_runtime.bundle import Bundle
from vmoe_runtime.errors import BundleError
from vmoe_runtime.manifest import MANIFEST_NAME

Loaded = TypeVar("Loaded")


class SharedLoads(Generic[Loaded]):
    """Loaded things by key, each for as long as somebody holds it; threads that want the same one wait for its load."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            # A forked process has none of the threads that a loaded graph runs on.
            os.register_at_fork(after_in_child=self._forget)

    def get(self, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
        """What `load` returned for the same key, if somebody still holds it, or else what it returns now."""
        with self._lock:
            turn = self._turns.get(key)
            if turn is None:
                turn = self._turns[key] = threading.Lock()
        with turn:
            loaded = self._loaded.get(key)
            if loaded is None:
                loaded = self._loaded[key] = load()
            return loaded

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()
        self._loaded: WeakValueDictionary[Hashable, Loaded] = WeakValueDictionary()


def content_key(bundle: Bundle) -> Hashable:
    """Equal for loads of the same, unchanged files: the real folder, the manifest's identity, and the state of each file.

    Raises:
        BundleError: a file is gone.
    """
    states = []
    for name in (MANIFEST_NAME, *sorted(bundle.manifest.files)):
        try:
            state = (bundle.path / name).stat()
        except OSError as error:
            raise BundleError(f"{bundle.path}: {name}: {error.strerror}") from None
        states.append((name, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    return (os.path.realpath(bundle.path), bundle.identity, tuple(states))

"""Engines of one process that load the same bundle in the same way share one loaded graph."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from vmoe_runtime.forkable_lock import forkable_lock


class SharedLoads:
    """Loaded graphs by key. A graph is shared for as long as somebody holds it, and only one is loaded at a time.

    A fork waits until a running load ends. Otherwise the child would wait forever for locks that native code held then.
    """

    def __init__(self) -> None:
        self._lock = forkable_lock()
        self._loaded: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(after_in_child=self._abandon)

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Returns the object loaded for this key if somebody still holds it, else calls `load`."""
        with self._lock:
            loaded = self._loaded.get(key)
            if loaded is None:
                loaded = self._loaded[key] = load()
            return loaded

    def _abandon(self) -> None:
        """Leaks all graphs in a forked process: without the threads they run on, they can be neither used nor freed."""
        for loaded in self._loaded.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(loaded))
        self._loaded = WeakValueDictionary()

"""Lets the engines of one process share a loaded graph if they load the same bundle in the same way."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

from vmoe_runtime.forkable_lock import forkable_lock


class SharedLoads:
    """A cache of loaded graphs by key. It keeps a graph only as long as an engine holds the graph.

    The cache loads one graph at a time. A fork waits until a running load ends. Without this wait, the child process could
    wait forever for locks that native code held at the time of the fork.
    """

    def __init__(self) -> None:
        self._lock = forkable_lock()
        self._loaded: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()
        if hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(after_in_child=self._abandon)

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Return the object that was loaded for `key` if it is still in use.

        Otherwise, call `load` and return its result.
        """
        with self._lock:
            loaded = self._loaded.get(key)
            if loaded is None:
                loaded = self._loaded[key] = load()
            return loaded

    def _abandon(self) -> None:
        """Leak all graphs in a forked process.

        The forked process lacks the threads that run these graphs, so it can neither use nor free the graphs.
        """
        for loaded in self._loaded.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(loaded))
        self._loaded = WeakValueDictionary()

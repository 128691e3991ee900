"""A pytest plugin that assigns whole modules to processes, and continues after a test has crashed its process.

With `--dist loadgroup`, modules that share an `xdist_group` run one after another in one process. Every other module is
assigned by itself. A test that crashes its process fails once, and the remaining tests run in another process. Without this
plugin, pytest-xdist would run the crashing test again in each new process. It would also fail if two processes were replaced
at the same time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return the scheduler for `--dist loadgroup`. For any other `--dist`, return None to let pytest-xdist choose one."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class CrashScheduling(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope: str = super()._split_scope(nodeid)
            return scope.partition("::")[0]

        def remove_node(self, node: Any) -> str | None:
            """Remove a process that has ended. If the process crashed, return the test that it was running."""
            crashed, workload = None, self.assigned_work[node]
            for file, tests in list(workload.items()):
                unfinished = [test for test, finished in tests.items() if not finished]
                if unfinished and crashed is None:
                    crashed = unfinished.pop(0)
                    tests[crashed] = True
                if not unfinished:
                    del workload[file]
            with self._ready_nodes(node):
                super().remove_node(node)
            return crashed

        def schedule(self) -> None:
            """Assign two files to each process that has collected its tests.

            One file is not enough, because a process doesn't run its last test until it receives more tests.
            """
            with self._ready_nodes():
                super().schedule()
                super().schedule()

        @contextlib.contextmanager
        def _ready_nodes(self, *ended: Any) -> Iterator[None]:
            ready = {*self.registered_collections, *ended}
            waiting = {node: self.assigned_work.pop(node) for node in self.nodes if node not in ready}
            yield
            self.assigned_work.update(waiting)

    return CrashScheduling(config, log)

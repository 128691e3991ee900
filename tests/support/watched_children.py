"""Numbered cases run by a child process that may crash or hang, and a parent that notices and goes on."""

from __future__ import annotations

import json
import os
import resource
import selectors
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

FAILED = "FAILED"
_CASE_SECONDS = 60.0


@dataclass
class Outcome:
    """What came of a run of cases.

    Attributes:
        verdicts: how many cases ended in which way.
        failures: one line for each case that must not be.
        slowest: seconds of the slowest case.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, index: int, verdict: str, words: str, seconds: float) -> None:
        """Counts one case."""
        self.verdicts[verdict] += 1
        self.slowest = max(self.slowest, seconds)
        if verdict.startswith(FAILED):
            self.failures.append(f"case {index}: {verdict}: {words}")

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {verdict}" for verdict, count in self.verdicts.most_common())
        return f"{sum(self.verdicts.values()):,} cases: {counts}; the slowest took {self.slowest:.1f} s"


def watch(command: Sequence[str], indices: Iterable[int]) -> Outcome:
    """Runs cases in a child, started with `command`, that calls `serve`; in a new one after each crash or hang."""
    outcome = Outcome()
    child: _Child | None = None
    for index in indices:
        child = child or _Child(command)
        start = time.monotonic()
        reply = child.ask(index)
        if reply is None:
            how = child.end()
            outcome.add(index, f"{FAILED}: {how}", child.last_words, time.monotonic() - start)
            child = None
        else:
            outcome.add(index, reply[0], reply[1], time.monotonic() - start)
    if child:
        child.end()
    return outcome


def serve(run_case: Callable[[int], tuple[str, str]], memory_bytes: int) -> None:
    """The child's side: runs the cases whose numbers come on standard input, within that much address space."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    for line in sys.stdin:
        verdict, words = run_case(int(line))
        print(json.dumps([verdict, words]), file=replies, flush=True)


class _Child:
    def __init__(self, command: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
        assert self._process.stdout and self._process.stderr
        os.set_blocking(self._process.stderr.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._selector.register(self._process.stderr, selectors.EVENT_READ)
        self.last_words = ""

    def ask(self, index: int) -> tuple[str, str] | None:
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.write(b"%d\n" % index)
            process.stdin.flush()
        except BrokenPipeError:
            return None
        end = time.monotonic() + _CASE_SECONDS
        while (left := end - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.fileobj is process.stderr:
                    text = (process.stderr.read() or b"").decode(errors="replace")
                    self.last_words = (self.last_words + text)[-2000:]
                elif line := process.stdout.readline():
                    verdict, words = json.loads(line)
                    return verdict, words
                else:
                    return None
            if process.poll() is not None and not self._selector.select(0):
                return None
        return None

    def end(self) -> str:
        """Ends the child, and says how it had ended."""
        process = self._process
        assert process.stdin and process.stdout and process.stderr
        try:
            process.stdin.close()
            code = process.wait(5)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            process.kill()
            code = None
            process.wait()
        self.last_words += (process.stderr.read() or b"").decode(errors="replace")[-2000:]
        process.stdout.close()
        process.stderr.close()
        self._selector.close()
        return f"no answer in {_CASE_SECONDS:.0f} s" if code is None else f"the process ended with {code}"

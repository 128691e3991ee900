"""How far a job is, on a terminal in one line that changes, elsewhere in a line now and then."""

from __future__ import annotations

import time
from typing import TextIO

_PAUSE = 10.0  # seconds between lines of a log


class Progress:
    """Says how many pictures are done, how fast, and how long the rest takes."""

    def __init__(self, stream: TextIO, total: int, done: int, *, quiet: bool) -> None:
        """Begins with what was done before.

        Args:
            stream: where to.
            total: pictures of the job.
            done: those that an earlier run has answered.
            quiet: say nothing.
        """
        self._stream, self._total, self._before, self._done = stream, total, done, done
        self._quiet, self._live = quiet, stream.isatty()
        self._start = self._said = time.monotonic()

    @property
    def rate(self) -> float:
        """Pictures a second of this run."""
        return (self._done - self._before) / max(time.monotonic() - self._start, 1e-9)

    def advance(self, pictures: int) -> None:
        """Adds what was done since the last call."""
        self._done += pictures
        now = time.monotonic()
        if self._quiet or not (self._live or now - self._said >= _PAUSE):
            return
        self._said = now
        line = progress_line(self._done, self._total, self.rate)
        print(f"\r\x1b[K{line}" if self._live else line, end="" if self._live else "\n", file=self._stream, flush=True)

    def end(self) -> None:
        """Takes the line away."""
        if self._live and not self._quiet:
            print("\r\x1b[K", end="", file=self._stream, flush=True)


def progress_line(done: int, total: int, rate: float) -> str:
    """How far a job is, in words.

    Example:
        >>> progress_line(1024, 60000, 215.3)
        '1,024 of 60,000 pictures, 215.3 a second, 4:33 left'
    """
    minutes, seconds = divmod(int((total - done) / max(rate, 1e-9)), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{done:,} of {total:,} pictures, {rate:,.1f} a second, {left} left"

"""How far a batch job is, how fast, and how long the rest takes."""

from __future__ import annotations

import time
from datetime import timedelta


class Pace:
    """Counts the pictures of a job as they are answered.

    Attributes:
        text: a line about the pictures; empty before the first ones are answered.

    Examples:
        >>> pace = Pace(1000)
        >>> pace.add(64, 20.0)
        >>> pace.text
        '64 of 1,000 pictures'
        >>> pace.add(64, 22.0)
        >>> pace.text
        '128 of 1,000 pictures, 32.0 a second, 0:00:27 left'
    """

    def __init__(self, pictures: int) -> None:
        """Takes the number of pictures that the job answers."""
        self.text = ""
        self._pictures, self._answered, self._first, self._begin = pictures, 0, 0, 0.0

    def add(self, answered: int, now: float | None = None) -> None:
        """Counts pictures that were answered at a time in seconds; None for the present."""
        now = time.monotonic() if now is None else now
        if not self._answered:  # the time before is that of Ray's start
            self._first, self._begin = answered, now
        self._answered += answered
        text, since = f"{self._answered:,} of {self._pictures:,} pictures", self._answered - self._first
        if since:
            rate = since / (now - self._begin)
            left = timedelta(seconds=round((self._pictures - self._answered) / rate))
            text += f", {rate:,.1f} a second, {left} left"
        self.text = text if self._answered else ""

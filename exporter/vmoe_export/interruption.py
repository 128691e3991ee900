"""Ends the command when a signal says so: at once, in one line, with nothing half-written left behind.

The handler raises nothing: whatever Python happens to run at that moment, such as an import, a destructor or torch's
tracing, would swallow the exception or make a traceback of it. The handler itself undoes what must not stay, and ends the
process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\r\x1b[2K\x1b[?25h"  # a progress bar hides it


@dataclass
class _State:
    undo: list[Callable[[], None]] = field(default_factory=list)
    held: int = 0  # blocks that no signal may interrupt, one inside the other
    waiting: int | None = None  # the signal that came meanwhile
    ending: bool = False


_state = _State()


def end_at_signals(program: str) -> Callable[[], None]:
    """From now on Ctrl-C, SIGTERM and SIGHUP end the process with exit code 128 + the signal's number.

    A signal that the process was told to ignore, as by nohup, stays ignored. Called by another thread than the main one, it
    changes nothing.

    Args:
        program: what the line on standard error starts with.

    Returns:
        What puts the handlers back that were there before.
    """
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread choose a handler
        return lambda: None
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        if _state.held:
            _state.waiting = number
        else:
            _end(program, number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, handle)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    return restore


@contextmanager
def undone_at_a_signal(undo: Callable[[], None]) -> Iterator[None]:
    """If a signal ends the process inside the block, `undo` is called first."""
    _state.undo.append(undo)
    try:
        yield
    finally:
        _state.undo.remove(undo)


@contextmanager
def without_signals() -> Iterator[None]:
    """A signal that comes inside the block takes effect at its end."""
    _state.held += 1
    try:
        yield
    finally:
        _state.held -= 1
        if not _state.held and _state.waiting is not None:
            number, _state.waiting = _state.waiting, None
            signal.raise_signal(number)


def _end(program: str, number: int) -> None:
    if _state.ending:  # a second signal, while the first is being obeyed
        return
    _state.ending = True
    try:
        for undo in reversed(_state.undo):
            undo()
    finally:
        word = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        try:
            cursor = _SHOW_CURSOR if os.isatty(2) else ""
            os.write(2, f"{cursor}{program}: {word}\n".encode())
        except OSError:  # nobody listens any more
            pass
        finally:
            os._exit(128 + number)

"""Calls in processes of their own: a call that crashes is an error of its caller, which goes on."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "openvino", "vmoe_export"])  # imported once for all calls


class ProcessDiedError(Exception):
    """A process ended before its call did."""


def call_in_own_process(name: str, function: Callable[..., Any], *arguments: object) -> Any:
    """The result of a call in a process of its own, or the exception that it raises.

    Args:
        name: of the call, for the message.
        function, arguments: picklable.

    Raises:
        ProcessDiedError: the process ended before the call did; the message names the call, and the signal or exit code.
    """
    receiver, sender = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_send_outcome, args=(sender, function, arguments))
    process.start()
    sender.close()
    with receiver:
        try:
            result, error = receiver.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            ending = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ProcessDiedError(f"the process of {name} ended with {ending}") from None
    process.join()
    if error is not None:
        raise error
    return result


def _send_outcome(sender: Connection, function: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    try:
        outcome = function(*arguments), None
    except BaseException as error:
        outcome = None, error
    sender.send(outcome)

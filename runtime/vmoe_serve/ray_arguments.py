"""The command line of `vmoe-serve ray`."""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.profiles import parse_profile_name
from vmoe_tools.bench.sweep import is_sweep_word
from vmoe_tools.command_line import Parser, UsageError, arguments_of, whole_number

PROGRAM = "vmoe-serve ray"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REPLICAS = re.compile(r"([0-9]{1,4})(?::([0-9]{1,4}))?")
_MOST_IMAGES, _MOST_WAITING, _MOST_MEGABYTES, _LONGEST_MS = 4096, 1 << 20, 1024, 600_000.0


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        name: of the model in addresses; None for that of the folder.
        slo_ms: milliseconds from a request's arrival to its answer; None where the setting is fixed.
        capacity: capacity ratios and ranges of them that elastic capacity chooses between.
        profiles: names of settings: those to choose between, the least accurate first, or the fixed one.
        host, port: where HTTP is served.
        replicas: (fewest, most).
        most_images: of a call and of a request.
        most_waiting: images that may wait in a replica.
        most_megabytes: of a request's body.
        threads: per call; None for the runtime's own choice.
        backend: its name.
        quiet: print nothing but errors.
    """

    bundle: Path
    name: str | None
    slo_ms: float | None
    capacity: tuple[str, ...]
    profiles: tuple[str, ...]
    host: str
    port: int
    replicas: tuple[int, int]
    most_images: int
    most_waiting: int
    most_megabytes: int
    threads: int | None
    backend: str
    quiet: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads the command line.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    if parsed.capacity and parsed.slo_ms is None:
        raise UsageError("--capacity is what --slo-ms chooses from, which is missing; --profile takes one setting")
    if parsed.capacity and len(parsed.profile) > 1:
        raise UsageError("--capacity starts from one profile, which says what k and order are; --profile names several")
    if parsed.slo_ms is None and len(parsed.profile) > 1:
        raise UsageError("several settings are what --slo-ms chooses from, which is missing")
    return arguments_of(
        Arguments,
        parsed,
        capacity=tuple(parsed.capacity),
        profiles=tuple(dict.fromkeys(parsed.profile)),
        most_images=parsed.max_batch,
        most_waiting=parsed.max_waiting,
        most_megabytes=parsed.max_body,
    )


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE",
        "Serves a bundle over HTTP, as an application of Ray Serve: on this machine, or on the cluster that the variable "
        "RAY_ADDRESS names. POST /v1/classify takes a picture or JSON, POST /v2/models/NAME/infer the Open Inference "
        "Protocol; GET /healthz and /metrics. With --slo-ms the capacity follows the load: requests that ask for no setting "
        "are served at the best one that keeps to it. SIGTERM and Ctrl-C answer what is there, and end it.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder, exported with --group image")
    text = "milliseconds from a request's arrival to its answer that elastic capacity holds (default: one setting for all)"
    add("--slo-ms", metavar="MS", type=_milliseconds, help=text)
    text = (
        "capacity ratios that it chooses from: LOW:HIGH for 8 spaced by equal factors, LOW:HIGH:N for N, or single ratios; "
        "several may follow. What else a setting has is as in --profile"
    )
    parser.add_several("--capacity", is_sweep_word, metavar="C", help=text)
    text = (
        "a setting, stored or not, such as c0.3-k1; with --slo-ms several may follow that it chooses from, the least "
        "accurate first (default: the stored ones; without --slo-ms the first stored one)"
    )
    parser.add_several("--profile", lambda word: parse_profile_name(word) is not None, metavar="P", help=text)
    text = "name of the model in addresses (default: that of the folder)"
    add("--name", metavar="NAME", type=_name, help=text)
    add("--host", metavar="HOST", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine alone)")
    add("--port", metavar="N", type=whole_number(65535), default=8000, help="its port (default: 8000)")
    text = "replicas: N, or FEWEST:MOST, of which so many run as the load needs (default: 1)"
    add("--replicas", metavar="N", type=_replicas, default=(1, 1), help=text)
    text = "the most images of a call and of a request (default: 16)"
    add("--max-batch", metavar="N", type=whole_number(_MOST_IMAGES), default=16, help=text)
    text = "images that may wait in a replica; further requests get 503 (default: 256)"
    add("--max-waiting", metavar="N", type=whole_number(_MOST_WAITING), default=256, help=text)
    text = "megabytes that a request's body may have; larger ones get 413 (default: 16)"
    add("--max-body", metavar="MB", type=whole_number(_MOST_MEGABYTES), default=16, help=text)
    parser.add_threads("; a replica asks Ray for as many CPUs, or for one")
    parser.add_backend()
    parser.add_volume("print nothing but errors")
    return parser


def _milliseconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number <= _LONGEST_MS:
        return number
    raise ArgumentTypeError(f"must be more than 0 and at most {_LONGEST_MS:.0f} milliseconds, not '{text}'")


def _name(text: str) -> str:
    if _NAME.fullmatch(text):
        return text
    raise ArgumentTypeError(f"must be of letters, digits, '.', '_' and '-', at most 100, not '{text}'")


def _replicas(text: str) -> tuple[int, int]:
    match = _REPLICAS.fullmatch(text) if text.isascii() else None
    fewest, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if 1 <= fewest <= most:
        return fewest, most
    raise ArgumentTypeError(f"must be N or FEWEST:MOST, at least 1, not '{text}'")

"""The command line of `vmoe-serve triton`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vmoe_runtime.profiles import parse_profile_name
from vmoe_tools.command_line import Parser, arguments_of, whole_number

PROGRAM = "vmoe-serve triton"

TritonBackend = Literal["python", "onnxruntime", "both"]

_NAME = re.compile("[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_MOST_IMAGES = 65536
_MOST_INSTANCES = 1024


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        repository: the model repository to write.
        profiles: names of profiles; empty for the stored ones.
        max_batch: most images of an execution; None for the default.
        name: of the model; None for that of the bundle.
        backend: Triton's backend, or both.
        instances: instances of each model.
        force: replace a repository that is there.
        quiet: print nothing but errors.
    """

    bundle: Path
    repository: Path
    profiles: tuple[str, ...]
    max_batch: int | None
    name: str | None
    backend: TritonBackend
    instances: int
    force: bool
    quiet: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads the words behind `vmoe-serve triton`.

    Raises:
        UsageError: they make no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    return arguments_of(Arguments, parsed, profiles=tuple(parsed.profile))


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE REPO",
        "Writes a model repository for the Triton Inference Server: a model on the engine, whose requests choose their "
        "setting, or plain models for ONNX Runtime, one for each profile. The bundle's files are in it as hard links.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("repository", metavar="REPO", type=Path, help="the model repository to write")
    parser.add_several(
        "--profile",
        lambda word: parse_profile_name(word) is not None,
        metavar="P",
        help="profiles, stored ones or others such as c0.3-k1: the first is what requests get that name none, and each is a "
        "model of --backend onnxruntime (default: all stored ones)",
    )
    text = "most images that are run together (default: 32, or what fits the routing groups)"
    add("--max-batch", metavar="N", type=whole_number(_MOST_IMAGES), help=text)
    add("--name", metavar="NAME", type=_model_name, help="name of the model (default: that of the bundle)")
    text = "python: one model on the engine (default); onnxruntime: models NAME-PROFILE, without Python; or both"
    add("--backend", metavar="B", choices=get_args(TritonBackend), default="python", help=text)
    text = "instances of each model, which run side by side (default: 1)"
    add("--instances", metavar="N", type=whole_number(_MOST_INSTANCES), default=1, help=text)
    add("--force", action="store_true", help="replace a repository that this command wrote")
    parser.add_volume("print nothing but errors")
    return parser


def _model_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"must be 1 to 100 of A-Z a-z 0-9 _ . - and start with none of . and -, not '{text}'"
        )
    return text

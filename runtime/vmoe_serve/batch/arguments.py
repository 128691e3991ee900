"""The command line of `vmoe-serve batch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_tools.command_line import Parser, UsageError, arguments_of, whole_number

PROGRAM = "vmoe-serve batch"

_MOST_CLASSES, _MOST_IMAGES, _MOST_REPLICAS, _LARGEST_SHARD = 1 << 24, 4096, 9999, 1 << 20
_USUAL_TOP = 5


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        input: a folder of pictures; with `column` a Parquet file, or a folder of them.
        output: the folder that shards are written to.
        column: of Parquet files that has the pictures' bytes; None for a folder of pictures.
        profile: name of the setting; None for the first stored one.
        top: classes per picture; None for the output of the model instead.
        shard_size: pictures per shard.
        batch: images per call.
        replicas: processes that answer, each with an engine.
        threads: per call; None for the runtime's own choice.
        backend: its name.
        force: start anew where another job has written.
        redo_errors: answer shards anew that have pictures with an error.
        strict: exit with 1 where a picture can't be read.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        quiet: print nothing but errors, and the JSON.
    """

    bundle: Path
    input: Path
    output: Path
    column: str | None
    profile: str | None
    top: int | None
    shard_size: int
    batch: int
    replicas: int
    threads: int | None
    backend: str
    force: bool
    redo_errors: bool
    strict: bool
    json: str | None
    quiet: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Reads the command line.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    parsed = _parser().read(argv)
    if parsed.output_logits and parsed.top is not None:
        raise UsageError("--top counts the classes of a picture, and --output-logits writes none")
    return arguments_of(Arguments, parsed, top=None if parsed.output_logits else parsed.top or _USUAL_TOP)


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE INPUT OUTPUT",
        "Classifies all pictures of a folder or of Parquet files through Ray Data, on this machine or on the cluster that "
        "the variable RAY_ADDRESS names, and writes Parquet files: shards of the input, each of them once. Where it was "
        "stopped or killed, the same command goes on with the shards that are missing.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder, exported with --group image")
    add("input", metavar="INPUT", type=Path, help="a folder of pictures; with --column a Parquet file or a folder of them")
    add("output", metavar="OUTPUT", type=Path, help="the folder to write; it is made where it isn't there")
    text = "column of the Parquet files that has the pictures' bytes, or a struct with a field 'bytes'"
    add("--column", metavar="C", help=text)
    add("--profile", metavar="P", help="a stored profile or another, such as c0.3-k1 (default: the first stored one)")
    text = f"classes per picture (default: {_USUAL_TOP}); all of them where the model has fewer"
    add("--top", metavar="N", type=whole_number(_MOST_CLASSES), help=text)
    add("--output-logits", action="store_true", help="write what the model puts out, and no classes")
    text = "pictures per shard, which is what a stopped job loses of each replica (default: 1024)"
    add("--shard-size", metavar="N", type=whole_number(_LARGEST_SHARD), default=1024, help=text)
    add("--batch", metavar="N", type=whole_number(_MOST_IMAGES), default=8, help="images per call (default: 8)")
    text = "processes that answer, each with an engine (default: 1)"
    add("--replicas", metavar="N", type=whole_number(_MOST_REPLICAS), default=1, help=text)
    parser.add_threads("; a replica asks Ray for as many CPUs, or for one")
    parser.add_backend()
    add("--force", action="store_true", help="start anew where OUTPUT has the shards of another job, which are removed")
    add("--redo-errors", action="store_true", help="answer shards anew that have pictures with an error")
    add("--strict", action="store_true", help="exit with 1 where a picture can't be read; all are answered nevertheless")
    parser.add_json("what was done", "sentences go")
    parser.add_volume("print nothing but errors, and the JSON")
    return parser

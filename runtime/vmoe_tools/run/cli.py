"""The command `vmoe-run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from vmoe_runtime import Engine
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_tools.command_line import (
    FAILURE,
    CommandError,
    UsageError,
    check_output_file,
    complain,
    people_stream,
    printable,
    run_command,
    write_json,
)
from vmoe_tools.run.answers import Answer, answer
from vmoe_tools.run.arguments import PROGRAM, Arguments, parse_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong, an image that
        can't be read among it.
    """
    return run_command(PROGRAM, _run, argv)


def _run(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    check_output_file(arguments.json, [arguments.bundle, *arguments.images])
    with Engine.load(arguments.bundle, arguments.profile, arguments.backend, arguments.threads) as engine:
        _check(engine.manifest, arguments)
        answers = answer(engine, arguments.images, arguments.top)
        if not arguments.quiet:
            answers = _shown(answers, engine, arguments, people_stream(arguments.json))
        done = list(_complained(answers))
    write_json(arguments.json, _to_json(done, engine, arguments))
    return FAILURE if any(each.error for each in done) else 0


def _check(manifest: Manifest, arguments: Arguments) -> None:
    if manifest.output != "logits":
        what = {"features": f"features of size {manifest.outputs}, which have no classes", "members": "each member's logits"}
        raise CommandError(f"{arguments.bundle} puts out {what[manifest.output]}; vmoe_runtime.Engine gives them in Python")
    count, multiple = len(arguments.images), manifest.batch_multiple
    if count % multiple:
        raise UsageError(
            f"{count} images don't fit: the bundle routes in groups ({manifest.group}) that need a multiple of {multiple}"
        )


def _complained(answers: Iterator[Answer]) -> Iterator[Answer]:
    for each in answers:
        if each.error is not None:
            complain(PROGRAM, each.error)
        yield each


def _shown(answers: Iterator[Answer], engine: Engine, arguments: Arguments, stream: TextIO) -> Iterator[Answer]:
    """The same answers, each printed as it comes: file, probability and class, in columns."""
    profile = f", {engine.profile.name}" if engine.profile else ""
    manifest = engine.manifest
    print(f"{manifest.summary}{profile}, on {engine.backend_description}; pictures: {manifest.input.steps}", file=stream)
    names = [printable(str(path)) for path in arguments.images]
    width = max(map(len, names))
    for name, each in zip(names, answers, strict=True):
        for rank, (index, probability) in enumerate(each.classes):
            file = "" if rank else name
            print(f"{file:<{width}}  {probability:>7.2%}  {printable(_class(engine, index))}", file=stream)
        yield each


def _class(engine: Engine, index: int) -> str:
    return engine.class_names[index] if engine.class_names else f"class {index}"


def _to_json(answers: Sequence[Answer], engine: Engine, arguments: Arguments) -> dict[str, Any]:
    names = engine.class_names
    return {
        "bundle": str(arguments.bundle),
        "profile": engine.profile.name if engine.profile else None,
        "backend": engine.backend,
        "images": [
            {
                "image": str(each.image),
                "error": each.error,
                "classes": [
                    {"class": names[index] if names else index, "index": index, "probability": probability}
                    for index, probability in each.classes
                ],
            }
            for each in answers
        ],
    }

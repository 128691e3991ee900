"""The command `vmoe-build`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from vmoe_tools.build.arguments import PROGRAM, Arguments, parse_arguments
from vmoe_tools.build.batches import choose_batches
from vmoe_tools.build.build import BuiltEngine, build
from vmoe_tools.build.check import BuildError
from vmoe_tools.build.trtexec import trtexec_command
from vmoe_runtime.backends.batch_range import BatchRange
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.reader import Bundle
from vmoe_tools.command_line import UsageError, check_output_file, people_stream, run_command, write_json
from vmoe_runtime.installation import TENSORRT_PLUGIN, find_native
from vmoe_runtime.profiles import Profile, parse_profile_name


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: the arguments without the program's name; default: those of the process.

    Returns:
        The exit code: 0, 2 for a wrong command line, 130 when interrupted, 1 for whatever else goes wrong.
    """
    return run_command(PROGRAM, _run, argv, interrupted="interrupted; no engine was kept")


def _run(argv: Sequence[str]) -> None:
    arguments = parse_arguments(argv)
    check_output_file(arguments.json, [arguments.bundle])
    bundle = Bundle.open(arguments.bundle)
    profile = _profile(bundle, arguments.profile)
    batches = choose_batches(bundle.manifest, arguments.min_batch, arguments.opt_batch, arguments.max_batch)
    if arguments.print_trtexec:
        print(_trtexec(arguments, bundle, profile, batches))
        return

    def say(text: str) -> None:
        if not arguments.quiet:
            print(f"{PROGRAM}: {text}", file=sys.stderr)

    try:
        built = build(
            bundle,
            profile,
            batches,
            workspace=arguments.workspace,
            plugin_inside=arguments.plugin_inside,
            force=arguments.force,
            say=say,
            log=say if arguments.verbose else None,
        )
    except ImportError as error:
        raise BuildError(
            f"TensorRT's Python package can't be loaded ({error}); pip install 'vmoe-export[tensorrt]'"
        ) from error
    if not arguments.quiet:
        _print_summary(built, people_stream(arguments.json))
    write_json(arguments.json, built.to_json())


def _trtexec(arguments: Arguments, bundle: Bundle, profile: Profile | None, batches: BatchRange) -> str:
    plugin = find_native("lib", TENSORRT_PLUGIN)
    if plugin is None:
        print(f"{PROGRAM}: this installation has no {TENSORRT_PLUGIN}; put its path into the line", file=sys.stderr)
    return trtexec_command(
        bundle.file(tensorrt_graph_name(bundle, profile)).resolve(),
        str(plugin or TENSORRT_PLUGIN),
        batches.shapes(bundle.manifest),
        Path(f"{bundle.path.resolve().stem}.{profile.name if profile else 'dense'}.engine"),
        workspace=arguments.workspace,
        plugin_inside=arguments.plugin_inside,
    )


def _profile(bundle: Bundle, name: str | None) -> Profile | None:
    """The profile to build for; None for a dense ViT."""
    manifest = bundle.manifest
    graphs = exported_graphs(bundle).graphs
    if manifest.rules is None:
        if name is not None:
            raise UsageError(f"--profile {name}: this is a dense model, which has no profiles")
        return None
    name = next(iter(graphs)) if name is None else name
    if name in manifest.profiles:
        return manifest.profiles[name]
    if parse_profile_name(name) is not None:
        return manifest.rules.named(name)
    raise UsageError(f"--profile: there is no profile '{name}'; the bundle has {', '.join(graphs)} for TensorRT")


def _print_summary(built: BuiltEngine, stream: TextIO) -> None:
    record, key = built.record, built.record.key
    print(
        f"{key.profile or 'dense'}: {key.precision}, batches of {record.min_batch} to {record.max_batch} (tuned for "
        f"{record.opt_batch}), TensorRT {key.tensorrt} on {key.gpu}, {record.size / 1e6:.1f} MB",
        file=stream,
    )
    if built.seconds is None:
        print("it was there already; --force builds it again", file=stream)
    else:
        print(f"built in {built.seconds:.0f} s", file=stream)
    for check in built.checks:
        print(
            f"{check.images} images in calls of {check.batch} against {check.reference}: difference at most "
            f"{check.max_difference:.2e}, median {check.median_difference:.2e}; {check.agreement:.2%} of the pairs alike",
            file=stream,
        )
    print(built.path, file=stream)

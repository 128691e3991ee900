"""The command line of `vmoe-build`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmoe_runtime.backends.batch_range import MOST_IMAGES
from vmoe_tools.command_line import Parser, UsageError, whole_number

PROGRAM = "vmoe-build"

_MOST_MEBIBYTES = 1 << 20


@dataclass(frozen=True)
class Arguments:
    """What was asked for.

    Attributes:
        bundle: the bundle's folder.
        profile: name of a profile; None for the first one that was exported for TensorRT.
        min_batch, opt_batch, max_batch: images per call; None for the default.
        workspace: most scratch memory of the engine, in MiB; None for all of the GPU's.
        plugin_inside: store the plugin library in the engine.
        force: build though there is an engine already.
        print_trtexec: print trtexec's command line and build nothing.
        json: path of the JSON file or "-" for standard output; None for no JSON.
        verbose, quiet: more on stderr; nothing but errors.
    """

    bundle: Path
    profile: str | None
    min_batch: int | None
    opt_batch: int | None
    max_batch: int | None
    workspace: int | None
    plugin_inside: bool
    force: bool
    print_trtexec: bool
    json: str | None
    verbose: bool
    quiet: bool


def parse_arguments(argv: Sequence[str] | None) -> Arguments:
    """Reads the command line; None stands for that of the process.

    Raises:
        UsageError: it makes no sense.
        SystemExit: help was asked for, and was printed.
    """
    arguments = Arguments(**vars(_parser().read(argv)))
    if arguments.print_trtexec and arguments.json is not None:
        raise UsageError("--print-trtexec builds nothing that --json could tell about; leave one out")
    return arguments


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        "BUNDLE",
        "Builds a TensorRT engine for one profile of a bundle that was exported with --tensorrt, for this "
        "machine's GPU, and checks it against the bundle's own graph on the CPU. The engine goes into the cache folder "
        "(VMOE_CACHE_DIR, else vmoe-export in XDG_CACHE_HOME or ~/.cache), where backend 'tensorrt' finds it.",
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", type=Path, help="the NAME.vmoe folder")
    add("--profile", metavar="P", help="a profile that was exported for TensorRT (default: the first one)")
    images = whole_number(MOST_IMAGES)
    add("--max-batch", metavar="N", type=images, help="most images of a call (default: 32, or what fits the routing groups)")
    add("--min-batch", metavar="N", type=images, help="fewest images of a call (default: the fewest that fit)")
    add("--opt-batch", metavar="N", type=images, help="images that the engine is tuned for (default: the most)")
    text = "most scratch memory of the engine (default: all of the GPU's)"
    add("--workspace", metavar="MIB", type=whole_number(_MOST_MEBIBYTES), help=text)
    text = "store the plugin library in the engine, which then loads without this package"
    add("--serialize-plugin", dest="plugin_inside", action="store_true", help=text)
    add("--force", action="store_true", help="build although there is an engine already")
    text = "print the command line with which trtexec builds the same engine, and build nothing; needs no GPU"
    add("--print-trtexec", action="store_true", help=text)
    parser.add_json("what was built", "the summary goes")
    parser.add_volume("say nothing but errors, and the JSON", "say what TensorRT logs, and where errors come from")
    return parser

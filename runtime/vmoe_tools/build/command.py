"""The command `vmoe build`, which builds a TensorRT engine for one profile of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmoe_runtime.backends.batch_range import MOST_IMAGES, BatchRange, default_largest
from vmoe_runtime.backends.tensorrt.tensorrt_graph import exported_graphs, tensorrt_graph_name
from vmoe_runtime.bundle.manifest import Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.profiles import Profile
from vmoe_runtime.settings import parse_profile_name
from vmoe_tools.build.trtexec import trtexec_command
from vmoe_tools.options import CONTEXT, bundle_argument, json_option, quiet_option
from vmoe_tools.output import check_output_file, people_stream, write_json
from vmoe_tools.program import ADDRESSES

if TYPE_CHECKING:
    from vmoe_tools.build.build import BuiltEngine

_IMAGES = click.IntRange(1, MOST_IMAGES)
_MOST_MEBIBYTES = 1 << 20


@click.command(context_settings=CONTEXT)
@bundle_argument
@click.option("--profile", metavar="P", help="A profile that was exported for TensorRT. Default: the first one.")
@click.option("--batch-size", metavar="N", type=_IMAGES, help="Largest batch. Default: 32, or what fits the routing groups.")
@click.option(
    "--min-batch-size", metavar="N", type=_IMAGES, help="Smallest batch. Default: the smallest that fits the routing groups."
)
@click.option(
    "--opt-batch-size", metavar="N", type=_IMAGES, help="Batch size that the engine is tuned for. Default: the largest."
)
@click.option(
    "--workspace",
    metavar="MIB",
    type=click.IntRange(1, _MOST_MEBIBYTES),
    help="Limit of the engine's scratch memory in MiB. Default: all memory of the GPU.",
)
@click.option(
    "--serialize-plugin",
    "plugin_inside",
    is_flag=True,
    help="Store the plugin library in the engine, so that it loads without this package.",
)
@click.option("--force", is_flag=True, help="Build even if the engine exists already.")
@click.option(
    "--print-trtexec",
    is_flag=True,
    help="Print the trtexec command line that builds the same engine, and build nothing; needs no GPU.",
)
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Print TensorRT's log, and a traceback with an error.")
@quiet_option
def build(
    bundle: Path, profile: str | None, print_trtexec: bool, json_target: str | None, verbose: bool, quiet: bool, **given: Any
) -> None:
    """Build a TensorRT engine for one profile of BUNDLE, which was exported with --tensorrt.

    The engine is for this machine's GPU. The command compares it with the bundle's own graph on the CPU and stores it in
    the cache folder, from which backend 'tensorrt' loads it. The cache folder is VMOE_CACHE_DIR. If that is not set, it is
    the folder vmoe-export in XDG_CACHE_HOME or ~/.cache.
    """
    if print_trtexec and json_target is not None:
        raise click.UsageError("--print-trtexec builds nothing, so it has no result for --json; omit one of them")
    if print_trtexec and str(bundle) in ADDRESSES:
        raise click.UsageError("--print-trtexec names files of the bundle, so the bundle must be a folder on this machine")
    check_output_file(json_target, [bundle])
    opened = Bundle.open(bundle)
    chosen = _chosen_profile(opened, profile)
    sizes = given.pop("min_batch_size"), given.pop("opt_batch_size"), given.pop("batch_size")
    batches = choose_batches(opened.manifest, *sizes)
    graph = opened.file(tensorrt_graph_name(opened, chosen)).resolve()
    if print_trtexec:
        engine = Path(f"{opened.path.resolve().stem}.{chosen.name if chosen else 'dense'}.engine")
        shapes = batches.shapes(opened.manifest)
        inside = given["plugin_inside"]
        with_plugin = inside or bool(opened.manifest.moe_layers)
        click.echo(trtexec_command(graph, engine, shapes, given["workspace"], with_plugin, inside))
        return

    def say(text: str) -> None:
        if not quiet:
            click.echo(f"vmoe: {text}", err=True)

    try:
        from vmoe_tools.build.build import build_engine
    except ImportError as error:
        raise click.ClickException(
            f"TensorRT's Python package can't be loaded ({error}); pip install 'vmoe-export[tensorrt]'"
        ) from error
    built = build_engine(opened, chosen, batches, say=say, log=say if verbose else None, **given)
    if not quiet:
        click.echo(_summary(built), file=people_stream(json_target))
    write_json(json_target, built.to_json())


def _chosen_profile(bundle: Bundle, name: str | None) -> Profile | None:
    """Return the profile for which to build; None for a dense ViT that was exported without merging."""
    manifest = bundle.manifest
    graphs = exported_graphs(bundle).graphs
    if not manifest.profiles:
        if name is not None:
            raise click.UsageError(f"--profile {name}: this dense model was exported without profiles")
        return None
    name = next(iter(graphs)) if name is None else name
    if name in manifest.profiles:
        return manifest.profiles[name]
    if parse_profile_name(name) is not None:
        return manifest.rules.named(name)
    raise click.UsageError(f"--profile: there is no profile '{name}'; the bundle has {', '.join(graphs)} for TensorRT")


def choose_batches(manifest: Manifest, smallest: int | None, tuned: int | None, largest: int | None) -> BatchRange:
    """Choose the batch sizes for which an engine is built.

    Args:
        manifest: the bundle's manifest. Its routing groups determine which batch sizes fit.
        smallest: smallest number of images per call; None for one routing group.
        tuned: number of images per call for which the engine is tuned; None for the largest number.
        largest: largest number of images per call; None for about 32.

    Raises:
        click.UsageError: a size doesn't fit the routing groups, or smallest <= tuned <= largest doesn't hold.
    """
    multiple = manifest.batch_multiple
    for option, size in (("--min-batch-size", smallest), ("--opt-batch-size", tuned), ("--batch-size", largest)):
        if size is not None and (misfit := manifest.misfit(size)):
            raise click.UsageError(f"{option} {size} doesn't fit: the {misfit} images")
    largest = largest or max(default_largest(multiple), smallest or 0, tuned or 0)
    smallest, tuned = smallest or multiple, tuned or largest
    if not smallest <= tuned <= largest:
        raise click.UsageError(
            f"--min-batch-size {smallest}, --opt-batch-size {tuned} and --batch-size {largest}: none may exceed the next"
        )
    return BatchRange(smallest, tuned, largest)


def _summary(built: BuiltEngine) -> str:
    record, key = built.record, built.record.key
    lines = [
        f"{key.profile or 'dense'}: {key.precision}, batches of {record.min_batch} to {record.max_batch} (tuned for "
        f"{record.opt_batch}), TensorRT {key.tensorrt} on {key.gpu}, {record.size / 1e6:.1f} MB"
    ]
    if built.seconds is None:
        lines.append("it already existed; --force builds it again")
    else:
        lines.append(f"built in {built.seconds:.0f} s")
    for check in built.checks:
        lines.append(
            f"{check.images} images in calls of {check.batch} against {check.reference}: difference at most "
            f"{check.max_difference:.2e}, median {check.median_difference:.2e}; {check.agreement:.2%} of the pairs agree"
        )
    return "\n".join([*lines, str(key.file)])

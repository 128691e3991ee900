"""The command `vmoe export`, with its options and the order of its steps."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from vmoe_export.bundle.bundle_writer import check_target
from vmoe_export.checkpoint import ONE_FILE_SUFFIXES
from vmoe_export.class_names import CLASS_LISTS, names_of
from vmoe_export.errors import OptionError
from vmoe_export.export import ExportResult, write_bundle
from vmoe_export.export_cost import ExportCost, export_cost
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.options.command_line import field_options
from vmoe_export.options.export_options import ExportOptions
from vmoe_export.precision import PRECISIONS
from vmoe_export.remote_checkpoint import checkpoint_at
from vmoe_export.small_file import read_small
from vmoe_export.summary import model_table, profile_notes, profile_table, result_json, validation_lines
from vmoe_export.validation.options import ValidationOptions
from vmoe_runtime.addresses import is_address, public_address
from vmoe_tools.options import CONTEXT, json_option, out_option, quiet_option, read_argument, stored_options
from vmoe_tools.output import check_output_file, people_stream, write_json
from vmoe_tools.program import printable
from vmoe_tools.remote_sources import transfer_bar
from vmoe_tools.terminal import Progress

_limit = partial(click.option, type=click.FloatRange(0, min_open=True), metavar="X")


def default_target(source: str, precision: str) -> Path:
    """Return the default path of the bundle."""
    checkpoint = Path(public_address(source) if is_address(source) else source)
    if checkpoint.suffix == ".vmoe":
        return Path(f"{checkpoint.stem}-{precision}.vmoe")
    stem = checkpoint.stem if checkpoint.suffix in {".index", *ONE_FILE_SUFFIXES} else checkpoint.name
    return Path(f"{stem}.vmoe")


def _print_families(context: click.Context, _: click.Parameter, given: bool) -> None:
    """If the option is given, print the supported families and end the command."""
    if not given or context.resilient_parsing:
        return
    from vmoe_export.families.family_list import FAMILIES

    for family in FAMILIES:
        kinds = "".join(f"model_type {kind}, or " for kind in family.model_types)
        click.echo(f"{family.title}: {kinds}tensors {' and '.join(family.landmarks)}")
    context.exit()


@click.command(context_settings=CONTEXT)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@stored_options
@out_option("OUT.vmoe", "The bundle to write. Default: the checkpoint's name, in the current folder.")
@field_options
@click.option(
    "--families",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_families,
    help="List the supported models of other libraries, and exit.",
)
@_limit(
    "--atol",
    help="Largest absolute difference between a part of a graph and the reference. Default: what rounding explains.",
)
@_limit(
    "--max-distance",
    help="Largest relative difference between a part and float32. Default: "
    f"{', '.join(f'{numbers.distance} for {name}' for name, numbers in PRECISIONS.items() if numbers.distance)}.",
)
@read_argument(
    "--images",
    metavar="NPZ|DIR",
    help="Images on which to measure the difference from float32 and, with labels, the accuracy. The first 128 optimize the "
    f"rounding of {', '.join(name for name, numbers in PRECISIONS.items() if numbers.is_calibrated)} weights. Default: "
    "random images.",
)
@click.option("--no-validate", is_flag=True, help="Do not compare the written graphs with the checkpoint.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its cost, and write nothing.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show the origin of each value, and a traceback with an error.")
@quiet_option
@click.version_option(package_name="vmoe-export", prog_name="vmoe")
def export(
    checkpoint: str,
    out: Path | None,
    atol: float | None,
    max_distance: float | None,
    images: Path | None,
    no_validate: bool,
    force: bool,
    dry_run: bool,
    json_target: str | None,
    verbose: bool,
    quiet: bool,
    class_names: str | None,
    **fields: Any,  # the fields of ExportOptions, by name
) -> None:
    """Export the V-MoE checkpoint CKPT to a bundle that runs at the capacity you choose.

    CKPT is PREFIX or PREFIX.index of the official format, an Orbax folder, a .safetensors file, a torch .pt, .pth or .bin
    file, or a float32 bundle. If CKPT is a bundle, its own settings replace the defaults below, and --preset does not apply.
    CKPT may also be the folder or a file of another library's ViT (see --families), or a URL such as gs://BUCKET/PREFIX.

    Example: vmoe export vmoe_b16 --capacity 0.3 --k 1
    """
    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other")
    if no_validate and images is not None:
        raise click.UsageError("--images is for validation, which --no-validate skips")
    chosen: dict[str, Any] = {name: None if value == () else value for name, value in fields.items()}
    options = ExportOptions(class_names=None if class_names is None else class_names_of(class_names), **chosen)
    validation = None if no_validate else ValidationOptions(atol, max_distance, images).checked(options.precision)
    # Turn markup off, because paths and group names may contain brackets.
    show = Console(file=people_stream(json_target), quiet=quiet, highlight=False, markup=False, emoji=False)
    target = out or default_target(checkpoint, options.precision)
    started = time.monotonic()
    names_file = None if class_names is None or class_names in CLASS_LISTS else Path(class_names)
    given = (Path(checkpoint), fields["config"], fields["head"], names_file, images)
    sources = [path for path in given if path is not None]
    check_output_file(json_target, [target, *sources, Path(f"{checkpoint}.index")])
    if not dry_run:
        check_target(target, force=force, sources=sources)
    try:
        with checkpoint_at(checkpoint, transfer_bar(checkpoint, quiet=quiet)) as opened:
            plan = plan_export(opened, options)
            show.print(model_table(plan, verbose=verbose))
            if plan.profiles:
                show.print(profile_table(plan))
                for text in profile_notes(plan):
                    show.print(f"Note: {text}")
            cost = None
            if dry_run:
                result = ExportResult(path=target, plan=plan)
                cost = export_cost(plan, validate=validation is not None)
            else:
                result = _write(plan, target, show, validation=validation, force=force)
    except ModuleNotFoundError as error:
        raise click.ClickException(f"{error.name} is not installed; pip install 'vmoe-export[export]'") from None
    seconds = time.monotonic() - started
    show.print(_last_line(result, seconds, cost), soft_wrap=True)
    estimate = {"estimate": asdict(cost)} if cost else {}
    write_json(json_target, {**result_json(result, written=not dry_run), **estimate, "seconds": round(seconds, 3)})


def _write(plan: ExportPlan, target: Path, show: Console, **settings: Any) -> ExportResult:
    result = write_bundle(plan, target, progress=Progress(sys.stderr, quiet=show.quiet).step, **settings)
    for line in validation_lines(result):
        show.print(line)
    if result.tensorrt:
        show.print(f"For TensorRT: {', '.join(result.tensorrt.values())}")
    return result


def _last_line(result: ExportResult, seconds: float, cost: ExportCost | None) -> str:
    """Return the last line of output.

    After an export, the line contains the bundle's path and the next command. After a dry run, it states the size and cost
    of the export.
    """
    target, plan = printable(str(result.path)), result.plan
    if cost:
        checks = ", ".join(f"{_duration(seconds)} in {name}" for name, seconds in cost.validation_seconds.items())
        validation = f" Validation takes about {checks}; --no-validate skips it." if checks else ""
        return (
            f"Dry run: nothing was written; {target} would take {plan.weight_bytes / 1e6:,.1f} MB, and the export about "
            f"{_duration(cost.seconds)} and {cost.memory_bytes / 1e9:.1f} GB of memory on this machine when it is idle."
            f"{validation}"
        )
    size = sum(path.stat().st_size for path in result.path.iterdir())
    # Add ./ before a path that begins with a dash, because a program would read such a path as an option.
    path = f"./{target}" if target.startswith("-") else target
    alone = plan.output == "logits" and plan.grouping.batch_multiple == 1
    command = f"vmoe run {shlex.quote(path)} IMAGE" if alone else f"vmoe bench {shlex.quote(path)}"
    return f"Wrote {target}: {size / 1e6:,.1f} MB in {seconds:.1f} s; next: {command}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:,.0f} minutes" if seconds > 90 else f"{seconds:.0f} seconds"


def class_names_of(source: str) -> Sequence[str]:
    """Return the class names in the built-in list `source` or, if there is no such list, in the file `source`.

    The file has one name per line.

    Raises:
        OptionError: the file can't be read, or is not UTF-8.
    """
    if source in CLASS_LISTS:
        return names_of(source)
    try:
        return read_small(Path(source)).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise OptionError(f"--class-names {source} is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"--class-names {source} can't be read: {reason}") from None

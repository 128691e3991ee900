"""`vmoe export`: its options, and what happens in which order."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vmoe_export.bundle.bundle_writer import check_target
from vmoe_export.checkpoint import ONE_FILE_SUFFIXES
from vmoe_export.class_names import CLASS_LISTS, names_of
from vmoe_export.errors import OptionError
from vmoe_export.export import ExportResult, write_bundle
from vmoe_export.export_cost import ExportCost, export_cost
from vmoe_export.export_options import ExportOptions
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.precision import PRECISIONS
from vmoe_export.presets import PRESETS
from vmoe_export.remote_checkpoint import checkpoint_at
from vmoe_export.small_file import read_small
from vmoe_export.summary import model_table, profile_notes, profile_table, result_json, validation_lines
from vmoe_export.validation.proof import ValidationOptions
from vmoe_measure.remote_files import is_address, public_address
from vmoe_runtime.bundle.manifest import OUTPUTS
from vmoe_tools.options import CONTEXT, json_option, quiet_option, read_argument, stored_options
from vmoe_tools.output import LINE_SECONDS, check_output_file, people_stream, write_json
from vmoe_tools.program import printable
from vmoe_tools.remote_sources import transfer_bar

_number = partial(click.option, type=click.IntRange(1), metavar="N")
_limit = partial(click.option, type=click.FloatRange(0, min_open=True), metavar="X")


def _image_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
    if not match:
        raise click.BadParameter(f"'{value}' is not a number of pixels, such as 384, or HxW, such as 224x384.")
    return int(match[1]), int(match[2] or match[1])


def _output_name(source: str, precision: str) -> Path:
    checkpoint = Path(public_address(source) if is_address(source) else source)
    if checkpoint.suffix == ".vmoe":
        return Path(f"{checkpoint.stem}-{precision}.vmoe")
    stem = checkpoint.stem if checkpoint.suffix in {".index", *ONE_FILE_SUFFIXES} else checkpoint.name
    return Path(f"{stem}.vmoe")


def _print_families(context: click.Context, _: click.Parameter, given: bool) -> None:
    """Ends the command with a list of the families."""
    if not given or context.resilient_parsing:
        return
    from vmoe_export.families.recognition import FAMILIES

    for family in FAMILIES:
        kinds = "".join(f"model_type {kind}, or " for kind in family.model_types)
        click.echo(f"{family.title}: {kinds}tensors {' and '.join(family.landmarks)}")
    context.exit()


@click.command(context_settings=CONTEXT)
@click.argument("checkpoint", metavar="CKPT", type=click.Path())
@stored_options
@click.option(
    "-o",
    "--out",
    "output_path",
    type=click.Path(path_type=Path),
    metavar="OUT.vmoe",
    help="The bundle to write. Default: the checkpoint's name in this folder.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="model.json",
    help="Official model config as JSON, for what the tensors don't tell, such as a gap classifier; or another library's "
    "config.json.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    metavar="NAME",
    help="Name of a released checkpoint, for its config, preprocessing and class names; an unknown NAME prints all.",
)
@click.option(
    "--group",
    metavar="image|batch|N|tokens:S",
    help="Tokens that compete for the same slots: those of one image (the default), the batch, N images, or S tokens.",
)
@_number("--batch-size", help="Images per batch; needed by --group batch.")
@click.option(
    "--image-size", callback=_image_size, metavar="PX|HxW", help="Image size; resizes a learned position embedding."
)
@_number(
    "--capacity-multiple-of",
    help="Round the slots per expert up to a multiple of N. Default: the config's, or 1 (official code: 4).",
)
@click.option(
    "--rounding",
    type=click.Choice(["ceil", "round"]),
    help="Round the slots per expert up (ceil) or to the nearest integer (round). Default: the config's, or ceil.",
)
@click.option(
    "--dispatch-bf16/--no-dispatch-bf16",
    default=None,
    help="Round expert inputs and outputs to bfloat16. Default: the config's, or no.",
)
@_number(
    "--ensemble-size",
    metavar="M",
    help="Members of an ensemble of experts (E3), where the tensors don't tell; 1 is a plain V-MoE.",
)
@_number(
    "--heads",
    help="Attention heads of another library's model, where neither a config.json nor its architecture's name says it.",
)
@click.option(
    "--families",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_families,
    help="List the models of other libraries that can be exported.",
)
@click.option(
    "--router",
    type=click.Choice(["top-k", "experts-choice"]),
    help="Each token chooses its k experts (top-k), or each expert its tokens. Default: the config's, or top-k.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="Type of the large matrix products and of their stored weights. int4 is for those of experts, beside int8; fp16 is "
    "for --tensorrt.",
)
@click.option(
    "--tensorrt", is_flag=True, help="Write a graph for TensorRT for each profile as well, fixed to its capacity and k."
)
@click.option(
    "--input",
    type=click.Choice(["float32", "uint8"]),
    help="Images as float32 in [-1, 1] (the default), or uint8 scaled inside the graph.",
)
@click.option(
    "--preprocess",
    metavar="STEPS",
    help="Preprocessing steps of the official code: resize_small(N), central_crop(N), resize(N), joined by '|'; or "
    "pillow_bicubic(N), pillow_bicubic_small(N), the same with bilinear, and round_central_crop(N), as in timm. "
    "Default: resize_small(256)|central_crop(224) at 224 px, resize(PX) at other sizes.",
)
@click.option(
    "--output",
    type=click.Choice(OUTPUTS),
    help="What the graph returns. Default: logits; of an E3 the logarithm of its members' mean probability.",
)
@click.option(
    "--class-names",
    metavar="FILE|LIST",
    help=f"Text file with one class name per line, or one of the lists {' and '.join(CLASS_LISTS)}; ./{CLASS_LISTS[0]} is "
    "a file of that name.",
)
@click.option(
    "--head",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Another head: an npz or safetensors file of kernel [D, classes] and bias [classes], as vmoe fewshot writes it.",
)
@_limit(
    "--atol",
    help="Largest absolute difference of a part of a graph from the reference. Default: what rounding explains.",
)
@_limit(
    "--max-distance",
    help="Largest relative difference of a part from float32. Default: 0.05 for bfloat16, 0.2 for int8, 0.4 for int4.",
)
@read_argument(
    "--images",
    metavar="NPZ|DIR",
    help="Images on which the difference from float32 is measured, with labels its accuracy, too; int4 is rounded for the "
    "first of them. Default: random ones.",
)
@click.option("--no-validate", is_flag=True, help="Don't run the written graphs.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@json_option
@click.option("-v", "--verbose", is_flag=True, help="Show where each value comes from, and a traceback with an error.")
@quiet_option
@click.version_option(package_name="vmoe-export", prog_name="vmoe")
def export(
    checkpoint: str,
    output_path: Path | None,
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
    **fields: Any,  # those of ExportOptions under their names
) -> None:
    """Export the V-MoE checkpoint CKPT to a bundle that runs at the capacity you choose.

    CKPT is PREFIX or PREFIX.index of the official format, a .safetensors file, a torch .pt, .pth or .bin file, or a float32
    bundle, which comes with the settings that it was exported with and takes no --preset; or the address of one, such as
    gs://BUCKET/PREFIX. It may also be a ViT of another library, see --families: its folder, or a file of it.

    Example: vmoe export vmoe_b16 --capacity 0.3 --k 1
    """
    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other")
    if no_validate and images is not None:
        raise click.UsageError("--images is for validation, which --no-validate leaves out")
    chosen: dict[str, Any] = {name: None if value == () else value for name, value in fields.items()}
    options = ExportOptions(class_names=_class_names(class_names), **chosen)
    validation = None if no_validate else ValidationOptions(atol, max_distance, images).checked(options.precision)
    # Nothing of what is printed is markup: paths and names of groups may hold brackets.
    show = Console(file=people_stream(json_target), quiet=quiet, highlight=False, markup=False, emoji=False)
    target = output_path or _output_name(checkpoint, options.precision)
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
    progress_console = Console(stderr=True, quiet=show.quiet, markup=False, emoji=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    disable = not progress_console.is_terminal
    told = time.monotonic()

    def tell(text: str) -> None:
        nonlocal told
        bar.update(task, description=text)
        if disable and not show.quiet and time.monotonic() - told >= LINE_SECONDS:
            told = time.monotonic()
            click.echo(f"{text} ...", err=True)

    def advance(name: str, size: int) -> None:
        bar.advance(task, size)
        tell("writing the weights")

    with Progress(*columns, console=progress_console, transient=True, disable=disable) as bar:
        task = bar.add_task("writing the weights", total=plan.weight_bytes)
        result = write_bundle(
            plan,
            target,
            progress=advance,
            stage=tell,
            **settings,
        )
    for line in validation_lines(result):
        show.print(line)
    if result.tensorrt:
        show.print(f"For TensorRT: {', '.join(result.tensorrt.values())}")
    return result


def _last_line(result: ExportResult, seconds: float, cost: ExportCost | None) -> str:
    """What there is now, and what to type next; after a dry run what there would be, and at which cost."""
    target, plan = printable(str(result.path)), result.plan
    if cost:
        minutes = f"{cost.seconds / 60:,.0f} minutes" if cost.seconds > 90 else f"{cost.seconds:.0f} seconds"
        return (
            f"Dry run: nothing was written; {target} would take {plan.weight_bytes / 1e6:,.1f} MB, and the export about "
            f"{minutes} and {cost.memory_bytes / 1e9:.1f} GB of memory on this machine when it is idle."
        )
    size = sum(path.stat().st_size for path in result.path.iterdir())
    # The program would take a path that begins with a dash for an option.
    path = f"./{target}" if target.startswith("-") else target
    alone = plan.output == "logits" and plan.grouping.batch_multiple == 1
    command = f"vmoe run {shlex.quote(path)} IMAGE" if alone else f"vmoe bench {shlex.quote(path)}"
    return f"Wrote {target}: {size / 1e6:,.1f} MB in {seconds:.1f} s; next: {command}"


def _class_names(source: str | None) -> Sequence[str] | None:
    if source is None or source in CLASS_LISTS:
        return None if source is None else names_of(source)
    try:
        return read_small(Path(source)).decode().splitlines()
    except UnicodeDecodeError:
        raise OptionError(f"--class-names {source} is not text in UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"--class-names {source} can't be read: {reason}") from None

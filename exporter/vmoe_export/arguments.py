"""The options of `vmoe-export` and what happens in which order."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from vmoe_export import __version__
from vmoe_export.bundle.bundle_target import check_target
from vmoe_export.checkpoint import open_checkpoint
from vmoe_export.class_names import CLASS_LISTS, names_of
from vmoe_export.errors import OptionError
from vmoe_export.export import ExportResult, write_bundle
from vmoe_export.export_options import ExportOptions
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.precision import PRECISIONS
from vmoe_export.presets import PRESETS
from vmoe_export.profile_notes import profile_notes
from vmoe_export.small_file import read_small
from vmoe_export.summary import distance_table, model_table, profile_table, result_json, rounded_table, validation_table
from vmoe_export.validation.proof import ValidationOptions
from vmoe_runtime.bundle.manifest import OUTPUTS
from vmoe_tools.command_line import check_output_file, people_stream, printable, write_json


def _image_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", value)
    if not match:
        raise click.BadParameter(f"'{value}' is not a number of pixels, such as 384, or HxW, such as 224x384.")
    return int(match[1]), int(match[2] or match[1])


def _none_if_empty(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    return values or None


def _output_name(checkpoint: Path, precision: str) -> Path:
    if checkpoint.suffix == ".vmoe":
        return Path(f"{checkpoint.stem}-{precision}.vmoe")
    stem = checkpoint.stem if checkpoint.suffix in {".index", ".safetensors", ".pt", ".pth"} else checkpoint.name
    return Path(f"{stem}.vmoe")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.argument("checkpoint", metavar="CKPT", type=click.Path(path_type=Path))
@click.option(
    "--capacity",
    "-c",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    callback=_none_if_empty,
    help="Capacity ratio; repeat for several. Default: the bundle's, the config's, or 1.05.",
)
@click.option(
    "--k",
    type=click.IntRange(1),
    multiple=True,
    callback=_none_if_empty,
    help="Experts per token; repeat for several. Each pair with a --capacity is a profile. Default: as there, or 2.",
)
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
    help="Official model config as JSON: says what tensors can't, such as a gap classifier.",
)
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    metavar="NAME",
    help="Name of a released checkpoint, for its config, preprocessing and class names; an unknown NAME prints all.",
)
@click.option(
    "--bpr/--no-bpr", default=None, help="Stored profiles use Batch Priority Routing (the default), or vanilla order."
)
@click.option(
    "--pool/--no-pool",
    default=None,
    help="Stored profiles let the places of a group go to any expert, or keep each expert's own (the default).",
)
@click.option(
    "--max-experts",
    type=click.IntRange(1),
    metavar="M",
    help="Stored profiles let a group use no more than M experts, those that its tokens are surest of. Default: all.",
)
@click.option(
    "--group",
    metavar="image|batch|N|tokens:S",
    help="Tokens that share places: of one image (the default), the batch, N images, or S tokens.",
)
@click.option("--batch", type=click.IntRange(1), metavar="N", help="Images per batch; needed by --group batch.")
@click.option(
    "--image-size", callback=_image_size, metavar="PX|HxW", help="Image size; resizes a learned position embedding."
)
@click.option(
    "--capacity-multiple-of",
    type=click.IntRange(1),
    metavar="N",
    help="Round places per expert up to a multiple. Default: the config's, or 1 (official code: 4).",
)
@click.option(
    "--rounding", type=click.Choice(["ceil", "round"]), help="How places become whole. Default: the config's, or ceil."
)
@click.option(
    "--dispatch-bf16/--no-dispatch-bf16",
    default=None,
    help="Round expert inputs and outputs to bfloat16. Default: the config's, or no.",
)
@click.option(
    "--ensemble-size",
    type=click.IntRange(1),
    metavar="M",
    help="Members of an ensemble of experts (E3), where the tensors don't say; 1 is a plain V-MoE.",
)
@click.option(
    "--router",
    type=click.Choice(["top-k", "experts-choice"]),
    help="Who chooses: tokens their k experts, or experts their tokens. Default: the config's, or top-k.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="fp32",
    show_default=True,
    help="What large products are computed in and their weights stored in. fp16 is for --tensorrt.",
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
    help="Official steps that make an image of a picture: resize_small(N), central_crop(N), resize(N), joined by '|'. "
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
    "--atol",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Largest difference of a graph's logits from torch. Default: 1e-4, and what fits the type in other precisions.",
)
@click.option(
    "--max-distance",
    type=click.FloatRange(0, min_open=True),
    metavar="X",
    help="Largest difference from float32, as a share of the logits' size. Default: 0.05 for bfloat16, 0.2 for int8.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="NPZ|DIR",
    help="Images to measure the difference from float32 on, top-1 included. Default: a few random ones.",
)
@click.option("--no-validate", is_flag=True, help="Don't run the written graphs.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--dry-run", is_flag=True, help="Print what would be written, and write nothing.")
@click.option("--json", "json_target", metavar="FILE", help="Write the result as JSON as well; - for standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Show where each value comes from, and a traceback with an error.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.version_option(__version__, prog_name="vmoe-export")
def export_command(
    checkpoint: Path,
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

    CKPT is PREFIX or PREFIX.index of the official format, a .safetensors file, a torch .pt or .pth file, or a float32
    bundle, which comes with the settings that it was exported with and takes no --preset.

    Example: vmoe-export vmoe_b16 --capacity 0.3 --k 1
    """
    options = ExportOptions(class_names=_class_names(class_names), **fields)
    validation = None if no_validate else ValidationOptions(atol, max_distance, images)
    if no_validate and images is not None:
        raise OptionError("--images is for validation, which --no-validate leaves out")
    if verbose and quiet:
        raise click.UsageError("-v and -q exclude each other.")
    # Nothing of what is printed is markup: paths and names of groups may hold brackets.
    stream = people_stream(json_target)
    show = Console(file=stream, quiet=quiet, highlight=False, markup=False, emoji=False)
    target = output_path or _output_name(checkpoint, options.precision)
    started = time.monotonic()
    names_file = None if class_names is None or class_names in CLASS_LISTS else Path(class_names)
    given = (checkpoint, fields["config"], names_file, images)
    check_output_file(json_target, [target, *given, Path(f"{checkpoint}.index")])
    if not dry_run:
        check_target(target, force=force, sources=[path for path in given if path is not None])
    with open_checkpoint(checkpoint) as opened:
        plan = plan_export(opened, options)
        show.print(model_table(plan, verbose=verbose))
        if plan.profiles:
            show.print(profile_table(plan))
            for text in profile_notes(plan):
                show.print(f"Note: {text}")
        result = ExportResult(target, plan) if dry_run else _write(plan, target, show, validation=validation, force=force)
    seconds = time.monotonic() - started
    show.print(_last_line(result, seconds, written=not dry_run), soft_wrap=True)
    write_json(json_target, {**result_json(result, written=not dry_run), "seconds": round(seconds, 3)})


def _write(plan: ExportPlan, target: Path, show: Console, **settings: Any) -> ExportResult:
    progress_console = Console(stderr=True, quiet=show.quiet, markup=False, emoji=False)

    def stage(text: str) -> AbstractContextManager[Any]:
        return progress_console.status(text) if progress_console.is_terminal else nullcontext()

    with _tensor_bar(progress_console, plan.weight_bytes) as progress:
        result = write_bundle(plan, target, progress=progress, stage=stage, **settings)
    if result.comparisons:
        show.print(validation_table(result))
    if result.rounded:
        show.print(rounded_table(result))
    if result.distances:
        show.print(distance_table(result))
    if result.tensorrt:
        show.print(f"For TensorRT: {', '.join(result.tensorrt.values())}")
    return result


def _last_line(result: ExportResult, seconds: float, *, written: bool) -> str:
    """What there is now, and what to type next."""
    target, plan = printable(str(result.path)), result.plan
    if not written:
        return f"Dry run: nothing was written; {target} would take {plan.weight_bytes / 1e6:,.1f} MB."
    size = sum(path.stat().st_size for path in result.path.iterdir())
    # The program would take a path that begins with a dash for an option.
    path = f"./{target}" if target.startswith("-") else target
    alone = plan.output == "logits" and plan.grouping.batch_multiple == 1
    command = f"vmoe-run {shlex.quote(path)} IMAGE" if alone else f"vmoe-bench {shlex.quote(path)}"
    return f"Wrote {target}: {size / 1e6:,.1f} MB in {seconds:.1f} s; next: {command}"


class _tensor_bar:
    """A bar over the bytes of all tensors, which ends with the last one so that later steps can show theirs."""

    def __init__(self, console: Console, total: int) -> None:
        self._bar = Progress(
            TextColumn("weights"), BarColumn(), DownloadColumn(), TimeElapsedColumn(),
            console=console, transient=True, disable=not console.is_terminal,
        )  # fmt: skip
        self._total = total

    def __enter__(self) -> Callable[[str, int], None]:
        self._task = self._bar.add_task("weights", total=self._total)
        self._bar.start()
        return self._advance

    def _advance(self, name: str, size: int) -> None:
        self._bar.advance(self._task, size)
        if self._bar.finished:
            self._bar.stop()

    def __exit__(self, *details: object) -> None:
        self._bar.stop()


def _class_names(given: str | None) -> Sequence[str] | None:
    if given is None:
        return None
    return names_of(given) if given in CLASS_LISTS else _read_names(Path(given))


def _read_names(path: Path) -> list[str]:
    try:
        return read_small(path).decode().splitlines()
    except UnicodeDecodeError:
        raise OptionError(f"--class-names {path} is not text in UTF-8") from None
    except ValueError as error:
        raise OptionError(f"--class-names {path} can't be read: {error}") from None
    except OSError as error:
        raise OptionError(f"--class-names {path} can't be read: {error.strerror}") from None

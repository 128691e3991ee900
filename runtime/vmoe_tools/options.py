"""The options that commands share: the same thing has the same option everywhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from functools import partial, reduce
from pathlib import Path
from typing import Any, TypeVar

import click

from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.settings import ROWS, SettingRow
from vmoe_tools.remote_sources import ReadPath, copied_first

F = TypeVar("F", bound=Callable[..., Any])

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_MOST_IMAGES = 65536
_STEPS, _MOST_STEPS = 8, 1000
_AMBIGUOUS = 0.5  # a share that large may have been meant as percent
_RANGE = re.compile(r"([^:]+):([^:]+)(?::([0-9]{1,4}))?")


class RatioRange(click.ParamType):  # type: ignore[type-arg]
    """`LOW:HIGH` for 8 capacity ratios spaced by equal factors, `LOW:HIGH:N` for N, as a tuple of floats.

    Examples:
        >>> RatioRange().convert("0.1:2.0:4", None, None)
        (0.1, 0.271, 0.737, 2.0)
    """

    name = "low:high[:n]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Reads one word; the ratios are rounded to three digits."""
        if isinstance(value, tuple):
            return value
        match = _RANGE.fullmatch(value)
        try:
            low, high = (float(match[1]), float(match[2])) if match else (math.nan, math.nan)
        except ValueError:
            low = high = math.nan
        steps = int(match[3]) if match and match[3] else _STEPS
        if not 0 < low < high < math.inf or not 2 <= steps <= _MOST_STEPS:
            self.fail(
                f"'{value:.40}' is no range of capacity ratios such as 0.1:2.0, or 0.1:2.0:12 for 12 of them", param, ctx
            )
        return tuple(float(f"{low * (high / low) ** (i / (steps - 1)):.3g}") for i in range(steps))


class FiniteRange(click.FloatRange):
    """Numbers of a range, without NaN and infinity."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads one word."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"'{value}' is no finite number", param, ctx)
        return number


class Share(FiniteRange):
    """A share as `0.01` or `1%`. From 0.5 on it must say `%`, as `0.5` is typed for half a percent, too.

    Examples:
        >>> Share(0, 100).convert("0.01", None, None), Share(0, 100).convert("0.5%", None, None)
        (0.01, 0.005)
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Reads one word."""
        text = str(value).removesuffix("%")
        number = super().convert(text, param, ctx)
        if text != str(value):
            return number / 100
        if number >= _AMBIGUOUS:
            whole = f", or {number * 100:g}%" * (number < 1)
            self.fail(f"{text}% or {text} of everything? Write {text}%{whole}", param, ctx)
        return number


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """One decorator that adds several options, in their order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


def read_argument(*words: str, **settings: Any) -> Callable[[F], F]:
    """An argument or, if its first word begins with dashes, an option for what a command reads: a path or an address."""
    decorate = click.option if words[0].startswith("-") else click.argument
    return _all_of(decorate(*words, type=ReadPath(path_type=Path), **settings), copied_first)


def _one(context: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> Any:
    """The value of an option that would otherwise ignore all but the last one."""
    if len(values) > 1:
        name = "/".join([*option.opts, *option.secondary_opts])
        several = "vmoe bench compares several settings, and vmoe inspect those of several --profile"
        raise click.UsageError(f"{context.command_path} takes one {name}; {several}", context)
    return values[0] if values else None


_single = partial(click.option, multiple=True, callback=_one)


def count_option(
    *words: str, least: int = 1, most: int | None = None, default: int | None = None, **settings: Any
) -> Callable[[F], F]:
    """An option that takes a whole number from `least` to `most`."""
    kind, shown = click.IntRange(least, most), default is not None
    return click.option(*words, metavar="N", type=kind, default=default, show_default=shown, **settings)


def out_option(metavar: str, text: str, *, required: bool = False) -> Callable[[F], F]:
    """What a command writes."""
    kind = click.Path(path_type=Path)
    return click.option("-o", "--out", metavar=metavar, type=kind, required=required, help=text)


bundle_argument = read_argument("bundle", metavar="BUNDLE")
bundles_argument = read_argument("bundles", metavar="BUNDLE...", nargs=-1, required=True)
_PROFILE = "A stored profile, or any name such as c0.3-k1."
profile_option = _single("--profile", metavar="P", help=f"{_PROFILE} Default: the first stored profile.")
profiles_option = click.option(
    "--profile", "profiles", metavar="P", multiple=True, help=f"{_PROFILE} Repeatable. Default: all stored profiles."
)
_BACKEND, _FASTEST = click.Choice(["auto", *BACKENDS]), "Runtime; auto selects the fastest one that is installed."
backend_option = click.option("--backend", type=_BACKEND, default="auto", show_default=True, help=_FASTEST)
backends_option = click.option(
    "--backend", "backends", type=_BACKEND, multiple=True, help=f"{_FASTEST} Repeatable. Default: auto."
)
threads_option = count_option("--threads", help="CPU threads per call. Default: chosen by the runtime.")
batch_size_option = count_option("--batch-size", most=_MOST_IMAGES, help="Images per call.")
batch_sizes_option = count_option(
    "--batch-size",
    "batch_sizes",
    most=_MOST_IMAGES,
    multiple=True,
    help="Images per call. Repeatable. Default: the smallest batch that the bundles accept.",
)
duration_option = click.option(
    "--duration",
    metavar="S",
    type=FiniteRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds of timing, shared by all settings; each setting gets at least 3 calls.",
)
compare_option = read_argument(
    "--compare",
    "compared",
    metavar="BUNDLE",
    multiple=True,
    help="A bundle of another model, such as a dense ViT, measured in the same run at its default profile. Repeatable.",
)
json_option = click.option(
    "--json",
    "json_target",
    metavar="FILE",
    help="Also write the result as JSON; - writes it to standard output, and the text to standard error.",
)
_IMAGES: dict[str, Any] = {
    "metavar": "NPZ|DIR",
    "help": "An .npz file with 'images' and optional 'labels', or a folder of pictures, in subfolders by class if labelled.",
}
images_option = read_argument("--images", **_IMAGES)
required_images_option = read_argument("--images", required=True, **_IMAGES)
labels_option = read_argument(
    "--labels",
    metavar="CSV",
    help="Labels for --images DIR: each line has the path of a picture in DIR and the name or index of its class.",
)


def max_drop_option(default: float | None) -> Callable[[F], F]:
    """The accuracy that a recommended setting may lose."""
    return click.option(
        "--max-drop-in-accuracy",
        "max_drop",
        metavar="X",
        type=Share(0, 100, max_open=True),
        default=default,
        show_default=default is not None,
        help="Recommend the fastest setting whose accuracy is within X of the best; 0.01 or 1%.",
    )


sweep_option = click.option(
    "--sweep",
    "sweeps",
    metavar="LOW:HIGH[:N]",
    type=RatioRange(),
    multiple=True,
    help="N capacity ratios (default 8) from LOW to HIGH, geometrically spaced. Repeatable.",
)
verbose_option = click.option("-v", "--verbose", is_flag=True, expose_value=False, help="Print a traceback with an error.")
"""The program itself looks for it: see `vmoe_tools.program`."""
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and the JSON.")
errors_only_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
result_options = _all_of(json_option, verbose_option, quiet_option)
"""Adds where the result goes, and what else is printed."""
run_options = _all_of(backend_option, threads_option, result_options)
"""Adds what runs the model as well."""


_TYPES: dict[str, Any] = {"ratio": float, "whole": int, "flag": bool}


def _change_option(row: SettingRow) -> Callable[[F], F]:
    """The option of what a call replaces in its profile."""
    if row.type == "flag":
        title = f"{row.title}, or {_lowered(row.off_title)}. Default: the profile's."
        return _single(f"--{row.word}/--no-{row.word}", default=None, help=title)
    title = f"{row.title}. Default: the profile's."
    return _single(f"--{row.word}", metavar=row.metavar, type=_TYPES[row.type], help=title)


def _axis_option(row: SettingRow) -> Callable[[F], F]:
    """The option that repeats, for one of the axes of several settings; of a flag two."""
    several = partial(click.option, type=_TYPES[row.type], multiple=True)
    if row.type != "flag":
        return several(f"--{row.word}", metavar=row.metavar, help=f"{row.title}. Repeatable.")
    return _all_of(
        several(f"--{row.word}", row.name, flag_value=True, help=f"{row.title}."),
        several(f"--no-{row.word}", row.name, flag_value=False, help=f"{row.off_title}; give both options to measure both."),
    )


def _stored_option(row: SettingRow) -> Callable[[F], F]:
    """The option of what an export stores in profiles; of the settings that a profile must say, it repeats."""
    if row.default is None:
        kind = click.FloatRange(0, min_open=True) if row.type == "ratio" else click.IntRange(1)
        short = ("-c",) if row.name == "capacity" else ()
        title = f"{row.title}. Repeatable: each combination is a profile. Default: from the bundle, else from training."
        return click.option(f"--{row.word}", *short, metavar=row.metavar, type=kind, multiple=True, help=title)
    if row.type == "flag":
        title = f"{row.title}, or {_lowered(row.off_title)}, in stored profiles. Default: --{'' if row.default else 'no-'}"
        return click.option(f"--{row.word}/--no-{row.word}", default=None, help=f"{title}{row.word}.")
    title = f"{row.title}, in stored profiles. Default: none."
    return click.option(f"--{row.word}", metavar=row.metavar, type=int, help=title)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


change_options = _all_of(*map(_change_option, ROWS.values()))
"""Adds what replaces settings of a profile, each by its name."""
setting_options = _all_of(profile_option, change_options)
"""Adds the options of the routing setting of calls, which are the fields of a `Setting`."""
axis_options = _all_of(sweep_option, *map(_axis_option, ROWS.values()))
"""Adds what several settings are made of: each option repeats, and `--bpr --no-bpr` stands for both orders.

The command gets `sweeps` (see `RatioRange`), and the others by the names of settings.
"""
stored_options = _all_of(*map(_stored_option, ROWS.values()))
"""Adds what an export stores in profiles, each setting by its name."""


def ratios_of(sweeps: Iterable[tuple[float, ...]], capacities: Iterable[float]) -> tuple[float, ...]:
    """The capacity ratios of `--sweep` and `--capacity`, each once and in rising order."""
    return tuple(sorted({*capacities, *(ratio for sweep in sweeps for ratio in sweep)}))

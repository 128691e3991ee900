"""The options that commands share. An option has the same name and meaning in every command."""

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
_AMBIGUOUS = 0.5  # a share at least this large may be meant in percent if it was typed without %
_RANGE = re.compile(r"([^:]+):([^:]+)(?::([0-9]{1,4}))?")


class RatioRange(click.ParamType):  # type: ignore[type-arg]
    """A parameter type for a range of capacity ratios. Neighbouring ratios differ by the same factor.

    `LOW:HIGH` gives 8 ratios, and `LOW:HIGH:N` gives N ratios.

    Examples:
        >>> RatioRange().convert("0.1:2.0:4", None, None)
        (0.1, 0.271, 0.737, 2.0)
    """

    name = "low:high[:n]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Parse the ratios in `value`, and return them rounded to three significant digits."""
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
                f"'{value:.40}' is not a range of capacity ratios such as 0.1:2.0, or 0.1:2.0:12 for 12 of them", param, ctx
            )
        return tuple(float(f"{low * (high / low) ** (i / (steps - 1)):.3g}") for i in range(steps))


class FiniteRange(click.FloatRange):
    """A parameter type for a finite number in a range."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse one word."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return number


class Share(FiniteRange):
    """A parameter type for a share, such as `0.01` or `1%`.

    Values of 0.5 and above need a `%`, because some users type `0.5` for 0.5 %.

    Examples:
        >>> Share(0, 100).convert("0.01", None, None), Share(0, 100).convert("0.5%", None, None)
        (0.01, 0.005)
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse one word."""
        text = str(value).removesuffix("%")
        number = super().convert(text, param, ctx)
        if text != str(value):
            return number / 100
        if number >= _AMBIGUOUS:
            whole = f", or {number * 100:g}%" * (number < 1)
            self.fail(f"{text}% or {text} of everything? Write {text}%{whole}", param, ctx)
        return number


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Combine options into one decorator, which adds them to a command in the given order."""
    return lambda command: reduce(lambda decorated, option: option(decorated), reversed(options), command)


def read_argument(*words: str, **settings: Any) -> Callable[[F], F]:
    """Declare an argument whose value is a path or a URL to read.

    If the first of `words` begins with a dash, declare an option instead.
    """
    decorate = click.option if words[0].startswith("-") else click.argument
    return _all_of(decorate(*words, type=ReadPath(path_type=Path), **settings), copied_first)


def _one(context: click.Context, option: click.Parameter, values: tuple[Any, ...]) -> Any:
    """Return an option's value. Refuse several values, because click would silently use only the last one."""
    if len(values) > 1:
        name = "/".join([*option.opts, *option.secondary_opts])
        several = "vmoe bench compares several settings, and vmoe inspect several --profile"
        raise click.UsageError(f"{context.command_path} takes one {name}; {several}", context)
    return values[0] if values else None


_single = partial(click.option, multiple=True, callback=_one)


def count_option(
    *words: str, least: int = 1, most: int | None = None, default: int | None = None, **settings: Any
) -> Callable[[F], F]:
    """Declare an option that accepts a whole number from `least` to `most`."""
    kind, shown = click.IntRange(least, most), default is not None
    return click.option(*words, metavar="N", type=kind, default=default, show_default=shown, **settings)


def out_option(metavar: str, text: str, *, required: bool = False) -> Callable[[F], F]:
    """Declare the option for the file or folder that a command writes."""
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
    """Declare the option for the accuracy that a recommended setting may lose."""
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
"""Commands don't get it: `vmoe_tools.program` looks for it on the command line."""
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors, and the JSON.")
errors_only_option = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
result_options = _all_of(json_option, verbose_option, quiet_option)
"""Adds --json, --verbose and --quiet."""
run_options = _all_of(backend_option, threads_option, result_options)
"""Adds --backend and --threads, and the options of `result_options`."""


_TYPES: dict[str, Any] = {"ratio": float, "whole": int, "flag": bool}


def _change_option(row: SettingRow) -> Callable[[F], F]:
    """Declare the option that replaces one setting of a profile."""
    if row.type == "flag":
        title = f"{row.title}, or {_lowered(row.off_title)}. Default: the profile's."
        return _single(f"--{row.word}/--no-{row.word}", default=None, help=title)
    title = f"{row.title}. Default: the profile's."
    return _single(f"--{row.word}", metavar=row.metavar, type=_TYPES[row.type], help=title)


def _axis_option(row: SettingRow) -> Callable[[F], F]:
    """Declare the repeatable option for one axis of a sweep: the values of one setting.

    A flag gets two options.
    """
    several = partial(click.option, type=_TYPES[row.type], multiple=True)
    if row.type != "flag":
        return several(f"--{row.word}", metavar=row.metavar, help=f"{row.title}. Repeatable.")
    return _all_of(
        several(f"--{row.word}", row.name, flag_value=True, help=f"{row.title}."),
        several(f"--no-{row.word}", row.name, flag_value=False, help=f"{row.off_title}; give both options to measure both."),
    )


def _stored_option(row: SettingRow) -> Callable[[F], F]:
    """Declare the option for one setting of stored profiles. The option is repeatable if the setting has no default."""
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
"""Adds an option for each setting, which replaces that of the profile. The command gets them by the names of settings."""
setting_options = _all_of(profile_option, change_options)
"""Adds --profile and `change_options`. The command gets the fields of a `Setting`."""
axis_options = _all_of(sweep_option, *map(_axis_option, ROWS.values()))
"""Adds the options of a sweep over settings. Each is repeatable; `--bpr --no-bpr` selects both orders.

The command gets `sweeps` (see `RatioRange`), and the other values by the names of settings.
"""
stored_options = _all_of(*map(_stored_option, ROWS.values()))
"""Adds an option for each setting of the profiles that an export stores. The command gets them by the names of settings."""


def ratios_of(sweeps: Iterable[tuple[float, ...]], capacities: Iterable[float]) -> tuple[float, ...]:
    """Combine the capacity ratios of `--sweep` and `--capacity`. Each ratio appears once, in ascending order."""
    return tuple(sorted({*capacities, *(ratio for sweep in sweeps for ratio in sweep)}))

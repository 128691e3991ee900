"""Writes a command line for trtexec, TensorRT's own program.

The command line builds the same engine as `vmoe build`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from vmoe_runtime.bundle.manifest import IMAGE_INPUT
from vmoe_runtime.installation import TENSORRT_PLUGIN, find_native


def trtexec_command(
    graph: Path, engine: Path, shapes: list[tuple[int, ...]], workspace: int | None, with_plugin: bool, plugin_inside: bool
) -> str:
    """Return a POSIX shell command line that builds the same engine with the trtexec of TensorRT 10 or 11."""
    plugin = find_native("lib", TENSORRT_PLUGIN)
    if plugin is None and with_plugin:
        click.echo(f"vmoe: this installation has no {TENSORRT_PLUGIN}; insert its path into the command line", err=True)
    words = ["trtexec", f"--onnx={graph}"]
    for option, shape in zip(("--minShapes", "--optShapes", "--maxShapes"), shapes, strict=True):
        words.append(f"{option}={IMAGE_INPUT}:{'x'.join(map(str, shape))}")
    # TensorRT 11 ignores --stronglyTyped, because all its networks are strongly typed.
    words += ["--stronglyTyped", "--noTF32"]
    if with_plugin:
        words.append(f"--dynamicPlugins={plugin or TENSORRT_PLUGIN}")
    if plugin_inside:
        words.append(f"--setPluginsToSerialize={plugin or TENSORRT_PLUGIN}")
    if workspace is not None:
        words.append(f"--memPoolSize=workspace:{workspace}")
    words += [f"--timingCacheFile={engine.with_suffix('.timing')}", f"--saveEngine={engine}", "--skipInference"]
    return shlex.join(words)

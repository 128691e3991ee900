"""The command line with which TensorRT's own tool builds the same engine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_INPUT = "image"


def trtexec_command(
    graph: Path, plugin: str, shapes: Sequence[Sequence[int]], engine: Path, *, workspace: int | None, plugin_inside: bool
) -> str:
    """One line for a POSIX shell, for the trtexec of TensorRT 10 and 11.

    Args:
        graph: the ONNX file.
        plugin: the plugin library.
        shapes: of the input `image`: smallest, tuned for, largest.
        engine: where trtexec is to write the engine; its timing cache goes beside it.
        workspace: most scratch memory in MiB; None for all of the GPU's.
        plugin_inside: store the plugin library in the engine.

    Example:
        >>> print(trtexec_command(Path("a b.onnx"), "p.so", [(1, 2, 2, 3)] * 3, Path("x.engine"), workspace=None,
        ...                       plugin_inside=False))  # doctest: +NORMALIZE_WHITESPACE
        trtexec '--onnx=a b.onnx' --minShapes=image:1x2x2x3 --optShapes=image:1x2x2x3 --maxShapes=image:1x2x2x3
        --stronglyTyped --noTF32 --dynamicPlugins=p.so --timingCacheFile=x.timing --saveEngine=x.engine --skipInference
    """
    words = ["trtexec", f"--onnx={graph}"]
    for option, shape in zip(("--minShapes", "--optShapes", "--maxShapes"), shapes, strict=True):
        words.append(f"{option}={_INPUT}:{'x'.join(map(str, shape))}")
    # TensorRT 11 knows strongly typed networks only, and takes the option as one without effect.
    words += ["--stronglyTyped", "--noTF32", f"--dynamicPlugins={plugin}"]
    if plugin_inside:
        words.append(f"--setPluginsToSerialize={plugin}")
    if workspace is not None:
        words.append(f"--memPoolSize=workspace:{workspace}")
    words += [f"--timingCacheFile={engine.with_suffix('.timing')}", f"--saveEngine={engine}", "--skipInference"]
    return shlex.join(words)

"""Checks that a loaded graph has the inputs and outputs that the manifest describes.

The runtime reports the graph's inputs and outputs. Without this check, a contradiction between graph and manifest would be
noticed only in the first call, or never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from vmoe_runtime.bundle.manifest import IMAGE_INPUT, INLINED_GRAPH, Manifest
from vmoe_runtime.bundle.reader import BundleGraph
from vmoe_runtime.errors import BundleError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.routing import layer_outputs
from vmoe_runtime.routing_kinds import TOKEN_OUTPUT
from vmoe_runtime.settings import ROWS


class Port(NamedTuple):
    """An input or output of a graph: its element type, as numpy names it, and its shape.

    None in a shape stands for an extent that varies. If the whole shape is None, the shape is unknown.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ",".join("N" if extent is None else str(extent) for extent in self.shape)
        return f"{self.dtype}[{shape}]"

    def suits(self, expected: Port) -> bool:
        """Return whether this port and `expected` have the same type, rank and extents.

        An extent of None matches any extent, and an unknown shape matches any shape.
        """
        if self.shape is None or expected.shape is None:
            return self.dtype == expected.dtype
        extents = zip(self.shape, expected.shape, strict=False)
        same = all(one == other or one is None or other is None for one, other in extents)
        return self.dtype == expected.dtype and len(self.shape) == len(expected.shape) and same


def check_interface(graph: BundleGraph, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> None:
    """Refuse a graph whose inputs or outputs differ from the manifest's description.

    Raises:
        BundleError: the inputs or outputs differ; the message contains the name of the graph and the difference.
    """
    manifest, name = graph.manifest, graph.path.name
    if manifest is None:
        return
    graphs = manifest.tensorrt.graphs if manifest.tensorrt else {}
    fixed_to = next((profile for profile, file in graphs.items() if file == name), None)
    merges = name != INLINED_GRAPH
    expected = _expected_inputs(manifest, settings=fixed_to is None, merges=merges)
    if inputs.keys() != expected.keys():
        took, wanted = (", ".join(sorted(names)) for names in (inputs, expected))
        raise BundleError(f"{graph.path} takes {took!r:.200}, and by the manifest it takes {wanted!r}")
    returned = _expected_outputs(manifest, manifest.profiles.get(fixed_to or ""), merges)
    for verb, found, ports in (("takes", inputs, expected), ("outputs", outputs, returned)):
        for key, port in ports.items():
            if key not in found or not found[key].suits(port):
                raise BundleError(
                    f"{graph.path} {verb} '{key}' as {found.get(key, 'nothing')}, and by the manifest it is {port}"
                )


def _expected_inputs(manifest: Manifest, *, settings: bool, merges: bool) -> dict[str, Port]:
    inputs = {IMAGE_INPUT: Port(manifest.input.dtype, (None, *manifest.input.size))}
    if settings:
        count = {"capacity": len(manifest.moe_layers)}
        names = [name for name in manifest.rules.settings if merges or not ROWS[name].merging]
        inputs |= {name: Port("int64", (count.get(name, 1),)) for name in names}
    return inputs


def _expected_outputs(manifest: Manifest, fixed: Profile | None, merges: bool) -> dict[str, Port]:
    outputs = {name: Port("float32", (None, *shape)) for name, shape in manifest.answers.items()}
    for layer, experts in zip(manifest.moe_layers, manifest.rules.experts, strict=True):
        of_layer = layer_outputs(manifest, experts, fixed=fixed)
        if not merges:
            of_layer.pop(TOKEN_OUTPUT, None)
        outputs |= {f"{layer}/{what}": Port(element, shape) for what, (element, shape) in of_layer.items()}
    return outputs

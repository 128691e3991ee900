"""The graphs that are fixed to a profile.

TensorRT builds engines from these graphs, and ONNX Runtime's CUDA provider runs them.
"""

from __future__ import annotations

from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY, TensorRtGraphs
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError
from vmoe_runtime.profiles import Profile
from vmoe_runtime.settings import ROWS


def exported_graphs(bundle: Bundle) -> TensorRtGraphs:
    """Return the graphs that a bundle contains for TensorRT.

    Raises:
        BackendError: the bundle was exported without such graphs.
    """
    graphs = bundle.manifest.tensorrt
    if graphs is None:
        precision = bundle.manifest.precision
        other = "" if precision in ("fp32", "bf16") else f" and another --precision, since there are none in {precision}"
        raise BackendError(f"{bundle.path} has no graphs for TensorRT: export it again with --tensorrt{other}")
    return graphs


def tensorrt_graph_name(bundle: Bundle, profile: Profile | None) -> str:
    """Return the name of the graph that is fixed to `profile`.

    Args:
        bundle: the bundle that contains the graph.
        profile: the profile; None for a dense ViT that merges no tokens.

    Raises:
        BackendError: the bundle was exported without graphs for TensorRT, or without this graph.
    """
    graphs = exported_graphs(bundle).graphs
    if profile is None:
        return graphs[DENSE_GRAPH_KEY]
    if profile.name not in graphs:
        if profile.policies:
            raise BackendError(
                f"TensorRT graphs have no {' or '.join(profile.policies)}, as '{profile.name}' sets; take another backend"
            )
        options = "".join(f" {ROWS[name].as_option(value)}" for name, value in profile.named_values.items())
        raise BackendError(
            f"{bundle.path} has no graph for TensorRT at profile '{profile.name}', only at {', '.join(graphs)}; export it "
            f"again with --tensorrt{options}"
        )
    return graphs[profile.name]

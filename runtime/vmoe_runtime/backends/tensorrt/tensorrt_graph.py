"""The graphs that are fixed to a profile: TensorRT builds engines from them, and ONNX Runtime's CUDA provider runs them."""

from __future__ import annotations

from vmoe_runtime.bundle.manifest import DENSE_GRAPH_KEY, TensorRtGraphs
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError
from vmoe_runtime.profiles import Profile


def exported_graphs(bundle: Bundle) -> TensorRtGraphs:
    """The graphs for TensorRT that a bundle has.

    Raises:
        BackendError: it was exported without them.
    """
    graphs = bundle.manifest.tensorrt
    if graphs is None:
        precision = bundle.manifest.precision
        other = "" if precision in ("fp32", "bf16") else f" and another --precision, since there are none in {precision}"
        raise BackendError(f"{bundle.path} has no graphs for TensorRT: export it again with --tensorrt{other}")
    return graphs


def tensorrt_graph_name(bundle: Bundle, profile: Profile | None) -> str:
    """Name of the graph that is fixed to a profile; None stands for a dense ViT that merges nothing.

    Raises:
        BackendError: the bundle was exported without graphs for TensorRT, or without this one.
    """
    graphs = exported_graphs(bundle).graphs
    if profile is None:
        return graphs[DENSE_GRAPH_KEY]
    if profile.name not in graphs:
        if "-pool" in profile.name or "-m" in profile.name:
            raise BackendError(
                f"there are no graphs for TensorRT with a pool or a limit of experts, as '{profile.name}' has; take another "
                "backend"
            )
        routing = f" --capacity {profile.capacity_ratio!r} --k {profile.k}{'' if profile.bpr else ' --no-bpr'}"
        options = (routing if profile.k else "") + (f" --merge {profile.merge}" if profile.merge or not profile.k else "")
        raise BackendError(
            f"{bundle.path} has no graph for TensorRT at profile '{profile.name}', only at {', '.join(graphs)}; export it "
            f"again with --tensorrt{options}"
        )
    return graphs[profile.name]

"""Whether a backend would run a bundle on this machine, found out without loading its graph and its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vmoe_runtime.backends import BACKENDS, fastest_first, not_installed
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError, UnavailableError, UnsuitedError
from vmoe_runtime.profiles import Profile


@dataclass(frozen=True)
class Availability:
    """What is known of a backend before it loads a bundle.

    Attributes:
        description: what it would run on, as `engine.backend_description` says; None where it can't.
        error: why it can't; None where it can, as far as can be known without loading.
    """

    description: str | None
    error: BackendError | None = None


def availability(name: str, bundle: Bundle, profile: Profile | None) -> Availability:
    """Looks for all that a backend needs, in the order in which it would be missed.

    Args:
        name: a key of BACKENDS.
        bundle: an open bundle.
        profile: what a backend that is fixed to one profile would be loaded for; None for a model without profiles.
    """
    try:
        BACKENDS[name].check(bundle, profile)
        return Availability(_CHECKS[name](bundle, profile))
    except ImportError as error:
        return Availability(None, not_installed(name, error))
    except BackendError as error:
        return Availability(None, error)


def chosen_by_auto(found: Mapping[str, Availability]) -> str | None:
    """The backend that "auto" would take; None where it would fail.

    Args:
        found: the availability of each of BACKENDS.
    """
    for name in fastest_first():
        error = found[name].error
        if error is None:
            return name
        if not isinstance(error, UnavailableError | UnsuitedError):
            return None
    return None


def _onnxruntime(_: Bundle, __: Profile | None) -> str:
    from vmoe_runtime.backends.onnxruntime_cpu import check_cpu

    return check_cpu()


def _openvino(bundle: Bundle, _: Profile | None) -> str:
    from vmoe_runtime.backends.openvino_cpu import check_cpu

    return check_cpu(bundle)


def _cuda(_: Bundle, __: Profile | None) -> str:
    from vmoe_runtime.backends.onnxruntime_gpu import check_cuda

    return check_cuda()


def _cuda_fixed(bundle: Bundle, _: Profile | None) -> str:
    from vmoe_runtime.backends.onnxruntime_gpu import check_fixed_cuda

    return check_fixed_cuda(bundle)


def _onnxruntime_tensorrt(_: Bundle, profile: Profile | None) -> str:
    from vmoe_runtime.backends.onnxruntime_gpu import check_tensorrt

    return check_tensorrt(profile)


def _tensorrt(bundle: Bundle, profile: Profile | None) -> str:
    from vmoe_runtime.backends.tensorrt.tensorrt_engine import check_engine

    return check_engine(bundle, profile)


_CHECKS: Mapping[str, Callable[[Bundle, Profile | None], str]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "cuda": _cuda,
    "cuda-fixed": _cuda_fixed,
    "ort-tensorrt": _onnxruntime_tensorrt,
    "tensorrt": _tensorrt,
}

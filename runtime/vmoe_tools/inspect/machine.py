"""What of this machine matters to a bundle: its op library, and the backends that would run it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from vmoe_runtime import op_library
from vmoe_runtime.backends import BACKENDS
from vmoe_runtime.backends.availability import availability, chosen_by_auto
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.errors import BackendError
from vmoe_tools.bench.machine import cpu_model, usable_cores


@dataclass(frozen=True)
class BackendState:
    """One backend and one bundle.

    Attributes:
        name: a key of `vmoe_runtime.backends.BACKENDS`.
        runs: whether all that it needs is here. The graph itself was not loaded.
        auto: whether "auto" takes it.
        description: what it runs on, as `engine.backend_description` says; None where it doesn't.
        reason: why it doesn't run, in one sentence; None where it does.
    """

    name: str
    runs: bool
    auto: bool
    description: str | None
    reason: str | None


@dataclass(frozen=True)
class OpLibrary:
    """The op library of this installation, for the CPU.

    Attributes:
        path: of the library that is used; None where there is none that can be.
        cpu_path: the instruction set that its kernels take here, such as "amx" or "avx512_vnni"; None without.
        reason: why there is none, in one sentence; None where there is.
    """

    path: str | None
    cpu_path: str | None
    reason: str | None


@dataclass(frozen=True)
class Machine:
    """This machine.

    Attributes:
        cpu: model name.
        cores: that this process may use.
        op_library: what bundles run on with the backend "onnxruntime".
        backends: each of `vmoe_runtime.backends.BACKENDS`, at the bundle's first profile.
    """

    cpu: str
    cores: int
    op_library: OpLibrary
    backends: tuple[BackendState, ...]


def look_around(bundle: Bundle) -> Machine:
    """Asks for all that backends need, without loading the bundle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an op library that can't be loaded, which is among the answers
        profile = next(iter(bundle.manifest.profiles.values()), None)
        found = {name: availability(name, bundle, profile) for name in BACKENDS}
        auto = chosen_by_auto(found)
        library = _op_library()
    backends = tuple(
        BackendState(
            name, state.error is None, name == auto, state.description, None if state.error is None else str(state.error)
        )
        for name, state in found.items()
    )
    return Machine(cpu_model(), usable_cores(), library, backends)


def _op_library() -> OpLibrary:
    library, reason = op_library.usable_library()
    if library is not None:
        return OpLibrary(str(library), op_library.cpu_path(library), None)
    try:
        return OpLibrary(None, None, reason or f"{op_library.library_path()} can't be used")
    except BackendError as error:
        return OpLibrary(None, None, str(error))

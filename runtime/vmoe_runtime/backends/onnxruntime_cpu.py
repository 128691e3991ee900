"""The ONNX Runtime backend, which runs on the CPU by default.

It loads the canonical graph if the op library is installed, else the inlined graph.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from vmoe_runtime import op_library
from vmoe_runtime.backends import Array, Backend, Parallelism, PreparedBackend
from vmoe_runtime.backends.merging import StandardBackend
from vmoe_runtime.bundle.graph_interface import Port, check_interface
from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH
from vmoe_runtime.bundle.reader import Bundle, BundleGraph
from vmoe_runtime.errors import BackendError
from vmoe_runtime.processors import processor_limit
from vmoe_runtime.profiles import Profile

_PREAMBLE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
_CPU: Sequence[tuple[str, Mapping[str, str]]] = (("CPUExecutionProvider", {}),)
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
_STOP_SPINNING = "session.force_spinning_stop"
_FATAL_ONLY = 4  # makes ONNX Runtime log only fatal errors, because it raises all other errors as exceptions


class OnnxRuntimeBackend:
    """A graph that is loaded in ONNX Runtime.

    Args:
        graph: the graph to load.
        threads: intra-op threads; None lets the runtime choose, within `processor_limit`.
        spin: whether these threads may keep looking for work after a call. Such threads take CPU time from other threads of
            the process.
        library: the op library to register; None registers no library.
        providers: execution providers with their options. The graph must run on the first provider.
        description: runtime, version, device and ops, for people to read.
        check: function that is called with the feeds before every run. It raises an error if the graph can't be run with
            them.

    Raises:
        BackendError: ONNX Runtime can't use the op library, the execution provider or the graph.
    """

    def __init__(
        self,
        graph: BundleGraph,
        threads: int | None = None,
        library: Path | None = None,
        *,
        spin: bool = False,
        providers: Sequence[tuple[str, Mapping[str, str]]] = _CPU,
        description: str = "",
        check: Callable[[Mapping[str, Array]], None] = lambda _feeds: None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.inter_op_num_threads = 1
        if not spin:
            options.add_session_config_entry(_STOP_SPINNING, "1")
        if (chosen := threads or processor_limit()) is not None:
            options.intra_op_num_threads = chosen
        if library is not None:
            _register(options, library)
        try:
            options.add_session_config_entry(_WEIGHTS_FOLDER, graph.folder)
        except TypeError:
            raise BackendError(f"{graph.folder} is not text in UTF-8, which ONNX Runtime needs; rename it") from None
        try:
            self._session = onnxruntime.InferenceSession(
                graph.data,  # the bytes that were checked; the file may have changed since the check
                options,
                providers=[name for name, _ in providers],
                provider_options=[dict(settings) for _, settings in providers],
                enable_fallback=0,  # ONNX Runtime's fallback would only repeat the failed attempt, and print to stdout
            )
        except Exception as error:
            raise BackendError(f"ONNX Runtime can't load {graph.path}: {first_line(error)}") from None
        # If ONNX Runtime can't start a provider, it continues without the provider.
        if self._session.get_providers()[0] != providers[0][0]:
            raise BackendError(f"ONNX Runtime {onnxruntime.__version__} can't start its {providers[0][0]} on this machine")
        # ONNX Runtime lists inputs that have a default value as overridable initializers. Check them too. Otherwise, a graph
        # could use a default value where the caller chooses a setting.
        ports = (*self._session.get_inputs(), *self._session.get_overridable_initializers())
        check_interface(graph, _named(ports), _named(self._session.get_outputs()))
        self.description = description
        self._check = check

    def run(self, feeds: dict[str, Array], outputs: list[str]) -> list[Array]:
        """Run the graph on `feeds` and return the arrays of `outputs`.

        `feeds` contains arrays by input name. This method is safe to call from many threads.

        Raises:
            BackendError: the runtime failed.
            Whatever `check` raises.
        """
        self._check(feeds)
        try:
            results: list[Array] = self._session.run(outputs, feeds)
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed: {first_line(error)}") from None
        return results


def _named(ports: Iterable[Any]) -> dict[str, Port]:
    """Return ONNX Runtime's inputs or outputs, which are NodeArgs, as `Port`s by name."""
    found = {}
    for port in ports:
        element = port.type.removeprefix("tensor(").removesuffix(")")
        shape = tuple(extent if isinstance(extent, int) else None for extent in port.shape)
        found[port.name] = Port("float32" if element == "float" else element, shape)
    return found


def prepare(bundle: Bundle, _profile: Profile | None, cpu: Parallelism) -> PreparedBackend:
    """Prepare the canonical graph if the op library is usable, else the inlined graph."""
    library, failure = op_library.usable_library()
    if library is None and bundle.manifest.precision != "fp32":
        op_library.warn_once(
            f"on standard ops {bundle.manifest.precision} is slower than fp32: install the op library, or export in fp32"
        )
    ops = f"standard ops; {failure}" if library is None else f"vmoe op library, {op_library.cpu_path(library)}"
    description = f"ONNX Runtime {onnxruntime.__version__} CPU, {ops}"

    def load(graph: BundleGraph) -> Backend:
        return OnnxRuntimeBackend(graph, cpu.threads, library, spin=cpu.spin, description=description)

    loads = partial(StandardBackend, bundle, load) if library is None else lambda: load(bundle.graph(CANONICAL_GRAPH))
    return PreparedBackend(description, loads, (cpu, library))


def _register(options: onnxruntime.SessionOptions, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:
        reason = f"ONNX Runtime {onnxruntime.__version__} can't use the op library {library}: {first_line(error)}"
        advice = "; run pip install --upgrade onnxruntime, or install vmoe-export again"
        raise BackendError(reason if "VMOE_CPU_PATH" in reason else reason + advice) from None


def first_line(error: Exception) -> str:
    """Return the first line of a runtime's error message, without error codes and path.

    The path is left out because this package's own messages contain it.
    """
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _PREAMBLE.sub("", line)[:300].strip() or line

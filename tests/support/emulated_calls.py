"""Random calls of the GPU kernels on the emulator, compared with the reference bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import op_reference
from on_gpu.emulator import Emulator
from on_gpu.kernel_call import Array, KernelCall
from on_gpu.library import DeviceError, Library

ORDERS = (0, 1, 2)
TOKEN_TYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}


def expected(call: KernelCall, library: Library) -> dict[str, Array]:
    """Return the reference's outputs of a call by name. Some of them may not be outputs of the call."""
    shape, tensors = call.shape, call.inputs
    if call.op in ("route", "route_dispatch"):
        slot, weight, src, expert = op_reference.route(tensors["gates"], shape.capacity, shape.choices, shape.bpr)
        outputs = {"slot": slot, "weight": weight, "src": src, "expert": expert}
        return outputs | ({"buf": dispatched(tensors["x"], src.reshape(-1))} if "x" in tensors else {})
    if call.op == "dispatch":
        return {"buf": dispatched(tensors["x"], tensors["src"])}
    if call.op == "combine":
        out, slot = tensors["out"].view(TOKEN_TYPES[shape.type]), tensors["slot"]
        slot = np.where((slot >= 0) & (slot < len(out)), slot, -1)
        rows = np.concatenate([out, np.zeros((1, out.shape[1]), out.dtype)])
        return {"y": op_reference.combine(rows[None], slot[None], tensors["weight"][None])[0].view(tensors["out"].dtype)}
    gates = np.empty((shape.all_tokens, shape.experts), np.float32)
    sizes = shape.all_tokens, shape.hidden, shape.experts
    library.call("gates_on_host", tensors["x"].ctypes.data, tensors["router"].ctypes.data, *sizes, gates.ctypes.data)
    return {"gates": gates}


def dispatched(x: Array, src: Array) -> Array:
    rows = np.concatenate([x, np.zeros((1, x.shape[1]), x.dtype)])
    return rows[np.where((src >= 0) & (src < len(x)), src, len(x))]


def problems(
    emulator: Emulator,
    call: KernelCall,
    dialect: int,
    orders: Sequence[int] = ORDERS,
    seed: int = 0,
    trusted: Library | None = None,
) -> list[str]:
    """Run a call in several orders. Return a message for each fault and each wrong output.

    The reference of gates is computed by `trusted`, or by default by the emulator's own library.
    """
    with np.errstate(all="ignore"):
        wanted = expected(call, trusted or emulator.library)
    found: list[str] = []
    for order in orders:
        emulator.configure(dialect, order, 3 * seed + order, call.processors)
        try:
            outputs, errors = call.run(emulator.library, emulator), list[str]()
        except DeviceError as error:
            outputs, errors = {}, [str(error)]
        wrong = call.differences(outputs, wanted) if outputs else []
        found += [f"{call}, order {order}: {what}" for what in (*emulator.faults(), *errors, *wrong)]
    return found

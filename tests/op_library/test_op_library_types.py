"""Check that the results of the op library's routing ops have the same bits as those of the numpy reference.

The tests cover every combination of types and every supported version of ONNX Runtime.
"""

from __future__ import annotations

import numpy as np
import pytest
from cpu_paths import need_op_library, outputs_of, run_calls
from moe_calls import MoeCall, moe_calls, same_values
from test_ort_versions import VERSIONS
from wheels import onnxruntime_folder

need_op_library()


@pytest.mark.parametrize(("version", "count"), [(None, 30), *((version, 5) for version in VERSIONS)])
def test_random_calls_are_the_reference_bit_for_bit(version: str | None, count: int) -> None:
    made = list(moe_calls(0, count))
    packages = onnxruntime_folder(version) if version else None
    found = outputs_of(run_calls([call.call for call in made], packages=packages))
    wrong = [str(call) for call, outputs in zip(made, found, strict=True) if not same_values(outputs, call.expected)]
    assert not wrong, f"{len(wrong)} of {len(made)} calls differ, such as {wrong[:5]}"


def test_weights_are_the_bits_of_the_gates() -> None:
    """Check that weights are bit-for-bit copies of gates, even if they are NaN."""
    rng = np.random.default_rng(1)
    gates = rng.integers(0, 2**32, (2, 3000, 7), np.uint32).view(np.float32)
    call = MoeCall("VmoeRoute", "float", {"gates": gates}, {"capacity": 5, "k": 7, "bpr": 1})
    ((_, weight, _, _),) = outputs_of(run_calls([call.call]))
    assert np.isnan(gates).sum() > 50
    np.testing.assert_array_equal(weight.view(np.uint32), call.expected[1].view(np.uint32))


def test_sums_in_half_precision_are_rounded_once() -> None:
    """Check that the sum 1 + 3 * 2^-12 is rounded only once in float16, to 1 + 2^-10.

    If each addition were rounded, the sum would stay 1.
    """
    out = np.array([1, 2**-12], np.float16).reshape(1, 2, 1)
    slot = np.array([0, 1, 1, 1], np.int32).reshape(1, 1, 4)
    call = MoeCall("VmoeCombine", "fp16", {"out": out, "slot": slot, "weight": np.ones((1, 1, 4), np.float32)}, {})
    ((y,),) = outputs_of(run_calls([call.call]))
    assert y.item() == 1 + 2**-10

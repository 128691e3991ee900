"""Check the vectors in conformance/.

Writing them again must give the same bytes, implementations must pass, and faults must be detected.
"""

from __future__ import annotations

import functools
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx.backend.test.loader
import onnx.inliner
import op_reference
import pytest
import torch
from conformance_cases import OP_ROWS
from cpu_paths import supported_paths
from make_conformance import FOLDER, write
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from op_models import run_graph, run_reference
from score import onnxruntime_sessions, score, vectors
from sdk_build import run

from vmoe_export.ops.table import ACTIVATIONS, ATTRIBUTE_RULES, OPS
from vmoe_export.validation import reference_ops
from vmoe_export.weight_types import bfloat16, int4, int8
from vmoe_runtime.op_library import find_library
from vmoe_torch import merging, ops, routing

pytestmark = pytest.mark.fast

MOST_BYTES = 1_500_000
VECTORS = list(vectors())


class NodeSession:
    """An object that runs a model with one node and has the interface that conformance/score.py expects.

    `run_node` computes the outputs of the node's op from its inputs and attributes. Both are given by name.
    """

    def __init__(self, run_node: Callable[..., Any], path: Path) -> None:
        graph = onnx.load(path).graph
        self._run_node, self._op = run_node, OPS[graph.node[0].op_type]
        self._attributes = {a.name: a.i for a in graph.node[0].attribute if a.name in ATTRIBUTE_RULES}
        self._weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def run(self, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = self._run_node(self._op, self._weights | feeds, self._attributes)
        by_name = dict(zip([value.name for value in self._op.outputs], found, strict=False))
        return [by_name[name] for name in names]


def run_numpy(op: Any, arrays: dict[str, np.ndarray], attributes: dict[str, int]) -> list[np.ndarray]:
    return run_reference(op, *(arrays.get(value.name) for value in op.inputs), **attributes)


def run_torch(op: Any, arrays: dict[str, np.ndarray], attributes: dict[str, int]) -> list[np.ndarray]:
    given = [torch.tensor(array) if array.dtype != np.int64 else int(array[0]) for array in arrays.values()]
    found = TORCH[op.name](*given, **attributes)
    return [tensor.numpy() for tensor in (found if isinstance(found, tuple) else [found])]


def merge_in_torch(x: Any, k: Any, sizes: Any, token: Any, merge: int, **attributes: int) -> tuple[Any, ...]:
    y, merged = merging.merge(x, k, merging.Merged(sizes, token.long()), merge, **attributes)
    return y, merged.sizes, merged.token.int()


TORCH: dict[str, Callable[..., Any]] = {
    "VmoeRoute": routing.route,
    "VmoeDispatch": ops.dispatch,
    "VmoeCombine": ops.combine,
    "VmoeChooseTokens": routing.choose_tokens,
    "VmoeSoftRouter": ops.soft_router,
    "VmoeSoftDispatch": ops.soft_dispatch,
    "VmoeSoftCombine": ops.soft_combine,
    "VmoeMerge": merge_in_torch,
}


def open_in_openvino(path: Path) -> Any:
    model = onnx.inliner.inline_local_functions(onnx.load(path))
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    run_values = run_graph("openvino", model)

    def run_named(names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        found = dict(zip(outputs, run_values(*(feeds[name] for name in inputs)), strict=True))
        return [found[name] for name in names]

    return SimpleNamespace(run=run_named)


IMPLEMENTATIONS: dict[str, Callable[[Path], Any]] = {
    "onnxruntime": onnxruntime_sessions(),
    "onnx-reference": lambda path: ReferenceEvaluator(str(path)),
    "openvino": open_in_openvino,
    "numpy": functools.partial(NodeSession, run_numpy),
    "torch": functools.partial(NodeSession, run_torch),
}
LEFT_OUT: dict[str, set[str]] = {
    "torch": {op for op in OPS if op not in TORCH},
    "openvino": {"test_vmoe_expert_mlp_int4"},  # OpenVINO needs fixed sizes for int4
    "onnx-reference": {"experts_256", "b16"},  # too large for TopK in ONNX's reference evaluator
}


def test_they_are_written_again_in_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path)
    stored = {path.relative_to(FOLDER): path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    for own in ("README.md", "score.py"):
        assert stored.pop(Path(own))
    stored = {path: data for path, data in stored.items() if "__pycache__" not in path.parts}
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == stored
    assert sum(map(len, stored.values())) < MOST_BYTES


def test_every_op_of_the_domain_has_a_model() -> None:
    assert {op.name for op, _ in OP_ROWS.values()} == set(OPS)
    loaded = onnx.backend.test.loader.load_model_tests(data_dir=str(FOLDER), kind="ops")
    assert {case.name for case in loaded} == set(OP_ROWS)


def test_the_rules_name_every_input_that_may_be_left_out_and_every_value_of_an_activation() -> None:
    rules = (FOLDER / "README.md").read_text()
    optional = {value.name for op in OPS.values() for value in op.inputs if value.optional and not value.scale_of}
    activations = {f"{number}: " for number in range(len(ACTIVATIONS))}
    row = next(line for line in rules.splitlines() if line.startswith("| `VmoeExpertMlp` |"))
    assert {name for name in optional if not re.search(rf"\b{name}\b", rules)} == set()
    assert {value for value in activations if value not in row} == set()


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_an_implementation_passes(name: str) -> None:
    chosen = [vector for vector in VECTORS if not {vector.op, vector.name} & LEFT_OUT.get(name, set())]
    assert len(chosen) > 60
    assert [(vector.name, wrong) for vector, wrong in score(IMPLEMENTATIONS[name], chosen) if wrong] == []


@pytest.mark.sample(2)
@pytest.mark.skipif(not find_library(), reason="there is no op library")
@pytest.mark.parametrize("path", supported_paths() if find_library() else [])
def test_the_op_library_passes_on_every_cpu_path(path: str) -> None:
    done = scored("--library", str(find_library()), path=path)
    count = len(VECTORS)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"{count} of {count} vectors pass"), done.stdout


def scored(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    return run(sys.executable, FOLDER / "score.py", *arguments, **({"VMOE_CPU_PATH": path} if path else {}))


def test_the_runner_scores_any_session_and_says_what_differs(tmp_path: Path) -> None:
    sound = scored("--session", "onnx.reference:ReferenceEvaluator", "--only", "choice")
    assert sound.returncode == 0, sound.stdout
    write(tmp_path)
    text = (tmp_path / "vectors.json").read_text()
    (tmp_path / "vectors.json").write_text(
        text.replace('"model": "test_vmoe_merge_prefix_1"', '"model": "test_vmoe_merge_prefix_0"')
    )
    wrong = scored(str(tmp_path), "--only", "merge_classifier")
    assert wrong.returncode == 1
    assert "merge_classifier: y[" in wrong.stdout and "0 of 1 vectors pass" in wrong.stdout
    for arguments in (["--session", "no_module:Session"], ["--library", "no.so"], [str(tmp_path / "nothing")]):
        refused = scored(*arguments)
        assert refused.returncode == 2 and "Traceback" not in refused.stderr


# Columns: fault | function of the reference | text to replace in that function | replacement | a vector that detects
# the fault
_FAULTS = """
the higher tied expert | route | np.argsort(-ranked, | num_experts - 1 - np.argsort(-ranked[..., ::-1], | tied_experts
the higher tied token | route | argsort(-priority | argsort(-priority - 1e-12 * bpr * np.arange(num_tokens) | tied_tokens
one slot less | route | chosen] == capacity | chosen] == max(1, capacity - 1) | vanilla
vanilla order for BPR | route | if bpr else | if False else | bpr
the sum of gates for BPR | route | ranked.max(axis=-1) if | np.sort(ranked)[..., -k:].sum(axis=-1) if | bpr_second_choices
NaN is the smallest | route | np.isnan(gates), 0 | np.isnan(gates), -np.inf | nan_ranks_as_0
denormal gates are 0 | route | np.isnan(gates) | ~(np.abs(gates) > 1e-38) | zeros_and_denormals
weights are renormalized | route | slot, weight, src | slot, weight / weight.sum(axis=-1, keepdims=True), src | raw_weights
choices at once | route | token in order[group] | token, choice in np.ndindex(num_tokens, k * (choice < 1)) | first_choices
no pool | route | if pool else taken | if False else taken | pool
no limit | allowed_experts | [:, :max_experts] | | limit
masses are not floored | allowed_experts | 2**14 | 2**24 | limit_floors
masses are over all tokens | allowed_experts | (is_first * units[..., None]).sum | ranked.sum | limit_first_choices
expert choice by row | choose_tokens | -np.where(np.isnan(gates), 0, gates) | np.argsort(-gates, axis=2) | choice
Soft MoE combines over tokens | soft_router | return dispatch, combine | return dispatch, dispatch | soft
Soft MoE combines in an expert | soft_router | return dispatch, combine | return dispatch, softmax(logits) | soft
merged tokens are unweighted | merge | sizes[image][members[one], None] | total[left.index(one)] / len(members[one]) | merge
a merged key counts once | attention | np.log(sizes) | 0 * sizes | test_vmoe_attention_sizes
GELU by tanh for that by erf | activate | == "gelu_erf" | == "" | test_vmoe_expert_mlp_gelu_erf
bfloat16 cut off | round_bf16 | x.astype(ml_dtypes.bfloat16) | (x.view("u4") >> 16 << 16).view("f4") | test_vmoe_linear_bf16
int8 cut off | quantize_rows | np.rint | np.trunc | test_vmoe_linear_int8
"""
FAULTS = {
    words[0]: words[1:] for words in ([word.strip() for word in line.split("|")] for line in _FAULTS.strip().splitlines())
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, old, new, finder = FAULTS[fault]
    places = (op_reference, reference_ops, bfloat16, int8, int4)
    original = next(getattr(place, name) for place in places if hasattr(place, name))
    home, source = inspect.getmodule(original), inspect.getsource(original)
    assert home and old in source
    planted = dict(vars(home))
    exec(source.replace(old, new), planted)
    for place in places:
        for alias in [alias for alias, value in vars(place).items() if value is original]:
            monkeypatch.setattr(place, alias, planted[original.__name__])
    with np.errstate(all="ignore"):
        found = {vector.name: wrong for vector, wrong in score(IMPLEMENTATIONS["numpy"], VECTORS)}
    assert " differ)" in found[finder]

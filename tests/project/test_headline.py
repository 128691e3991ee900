"""Tests of the headline benchmark and of the layer times, on a tiny model.

The headline benchmark plots published accuracy over measured time. The layer times are those of a single image.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import headline
import pytest
from cpu.fronts import front, words
from headline import PUBLISHED
from safetensors import safe_open

from vmoe_measure.flops import ModelShape, sparse_flops
from vmoe_runtime.bundle.reader import Bundle

pytestmark = pytest.mark.long


def point(size: str, ms: float, top1: float | None, layers: str | None = None, k: int | None = None) -> dict[str, Any]:
    return {"size": size, "layers": layers, "k": k and 2, "capacity": k and 1.05, "ms": ms, "top1": top1}


def test_the_fronts_and_the_savings_are_those_of_the_points_with_an_accuracy() -> None:
    dense = [point("S/32", 10, 70.0), point("B/32", 5, None), point("B/16", 40, 80.0), point("L/32", 50, 79.0)]
    sparse = [
        point("S/32", 20, 75.0, "Every 2", 2),
        point("L/16", 80, 85.0, "Last 2", 2),
        point("B/16", 30, 75.0, "Last 2", 2),
    ]
    assert front(dense, "top1") == [dense[0], dense[2]] and front(sparse, "top1") == sparse[:2]
    told = words(dense + sparse, "top1")
    names = [line.partition(" (")[0] for line in told]
    times_as_long = [float(ratio) for line in told for ratio in re.findall(r"([0-9.]+) x as long", line)]
    assert names == ["ViT S/32", "ViT B/16", "V-MoE S/32, Every 2"] and times_as_long == [
        20 / 10,
        80 / 40,
        20 / (10 * 40) ** 0.5,
    ]
    assert "x as long" not in words([*dense, sparse[0]], "top1")[1] and words(sparse, "top1") == []


@pytest.mark.slow
def test_a_run_stores_its_points_and_a_later_one_draws_them_without_measuring(tmp_path: Path) -> None:
    published = json.loads(PUBLISHED.read_text())
    assert all(setting["source"] or not published["metrics"].keys() & setting.keys() for setting in published["settings"])
    sparse = {"size": "tiny", "layers": "Every 2", "k": 2, "capacity": 1.05, "top1": 60.0, "source": "Table 1"}
    settings = [{"size": "tiny", "top1": 50.0, "source": "Table 1"}, sparse, sparse | {"k": 1, "top1": None, "source": None}]
    file = tmp_path / "published.json"
    file.write_text(json.dumps(published | {"metrics": {"top1": {"title": "top-1", "pixels": 64}}, "settings": settings}))
    arguments = ["--published", str(file), "--threads", "1", "--batch", "2", "--rounds", "1", "-o", str(tmp_path / "a.svg")]
    command = [sys.executable, headline.__file__, *arguments]
    outputs = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(2)]
    stored = json.loads((tmp_path / "a.json").read_text())
    assert [p["layers"] for p in stored] == [None, "Every 2", "Every 2"] and all(p["ms"] > 0 for p in stored)
    assert stored[0]["kept"] is None and 0.5 < stored[1]["kept"] <= 1
    assert "V-MoE tiny, Every 2, 64 pixels" in outputs[0].stderr
    assert outputs[1].stderr == f"{tmp_path / 'a.svg'} is written\n"
    assert outputs[0].stdout == outputs[1].stdout and "Not run" not in outputs[0].stdout
    assert "tiny, Every 2" in (tmp_path / "a.svg").read_text() and not (tmp_path / "headline-work").exists()


def test_what_an_image_reads_and_multiplies_is_the_whole_model(tmp_path: Path) -> None:
    import layers
    from cpu.models import prepare

    path = (model := prepare("tiny", tmp_path)).bundle("sparse")
    manifest = Bundle.open(path).manifest
    shape = ModelShape.of(manifest.model)
    for merge in (0, 1):
        products = layers.multiply_adds(shape, merge, 10).values()
        assert 2 * sum(map(sum, products)) == sparse_flops(shape, [4.0, 6.0], merge)
    used = {f"encoderblock_{block}": 0.5 for block in shape.moe_layers}
    weights: Any = safe_open(path / "weights.safetensors", framework="np")
    read, bytes_of = layers.bytes_read(path, used), {name: weights.get_tensor(name).nbytes for name in weights.keys()}  # noqa: SIM118
    assert read["experts"] == pytest.approx(
        sum(bytes_ for name, bytes_ in bytes_of.items() if "/Moe/Mlp/" in name) / 2, rel=0.02
    )
    profile: Any = manifest.rules.profile(capacity=0.3, k=1)
    taken = layers.profiled(path, {"image": model.images(1)} | profile.inputs, 1, 2)
    assert set(taken) == {*read, "between ops"} and all(taken[kind] > 0 for kind in read)

"""Checkpoints of other libraries' ViTs, written from `tests/data/families.json`, and what those libraries gave for them."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import family_weights
import numpy as np
import safetensors.numpy
import torch

DATA = Path(__file__).parents[1] / "data"
LAYOUTS = ("safetensors", "sharded", "bin", "pth")

Layout = Literal["safetensors", "sharded", "bin", "pth"]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """One model of `tests/data/make_families.py`."""

    name: str
    raw: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def config(self) -> dict[str, Any]:
        """What the library writes into config.json, as a copy of its own."""
        return json.loads(json.dumps(self.raw["config"]))

    @property
    def tensors(self) -> Tensors:
        return family_weights.tensors(self.raw["tensors"], self.raw["seed"])

    @property
    def output(self) -> str:
        """logits, pooler_output, image_embeds or pre_logits."""
        return self.raw["output"]

    def size(self, other: bool = False) -> tuple[int, int]:
        """Height and width of the model's pictures, or of those of another size."""
        height, width = self.raw["other_size" if other else "size"]
        return height, width

    def pictures(self, other: bool = False) -> np.ndarray:
        """float32[2,3,height,width], preprocessed."""
        return family_weights.pictures(self.size(other), self.raw["seed"])

    def expected(self, other: bool = False, dtype: Literal["float32", "float64"] = "float64") -> np.ndarray:
        """[2,outputs]: what the library computed in that type."""
        return _arrays()[f"{self.name}/{'other_size' if other else 'size'}/{dtype}"]

    def write(self, folder: Path, layout: Layout = "safetensors") -> Path:
        """Makes the folder with the files that the library saves; returns it."""
        write_files(folder, self.config, self.tensors, layout)
        if (preprocessing := self.raw.get("preprocessor_config")) is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        return folder


def write_files(folder: Path, config: dict[str, Any] | None, tensors: Tensors, layout: Layout = "safetensors") -> None:
    """Makes the folder with config.json, where there is one, and the tensors.

    They lie in model.safetensors; in two such files and their index; in pytorch_model.bin, as `torch.save` writes a state
    dict; or in checkpoint.pth, as timm's training does: below "model", with the names that DistributedDataParallel gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    states = {name: torch.from_numpy(value) for name, value in tensors.items()}
    if layout == "safetensors":
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    elif layout == "sharded":
        names, places = list(tensors), {}
        for i, part in enumerate((names[::2], names[1::2]), 1):
            file = f"model-{i:05}-of-00002.safetensors"
            safetensors.numpy.save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif layout == "bin":
        torch.save(states, folder / "pytorch_model.bin")
    else:
        content = {"epoch": 3, "arch": "vit", "model": {f"module.{name}": value for name, value in states.items()}}
        torch.save(content, folder / "checkpoint.pth")


@functools.cache
def families() -> dict[str, Family]:
    raw = json.loads((DATA / "families.json").read_text())["cases"]
    return {name: Family(name, case) for name, case in raw.items()}


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    with np.load(DATA / "families.npz") as data:
        return {name: data[name] for name in data.files}

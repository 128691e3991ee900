"""Checkpoints of other libraries' ViTs, and the outputs of these libraries.

The checkpoints are written from `tests/data/families.json`.
"""

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

Layout = Literal["safetensors", "sharded", "bin", "sharded_bin", "pth"]
Size = Literal["size", "other_size"]
Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class Family:
    """One model of `tests/data/make_families.py`."""

    name: str
    made_by: str  # a transformers class, a timm architecture, or "CLIP-MoE"
    seed: int
    output: str  # logits, pooler_output, image_embeds or pre_logits
    size: tuple[int, int]  # height and width of the model's pictures
    other_size: tuple[int, int]
    config: dict[str, Any]  # content of config.json; empty if there is no such file
    shapes: dict[str, list[int]]  # of its tensors
    preprocessor_config: dict[str, Any] | None = None  # content of preprocessor_config.json, which timm doesn't write
    arguments: dict[str, Any] | None = None  # arguments for CLIP-MoE's code, which writes no config

    @property
    def tensors(self) -> Tensors:
        return family_weights.tensors(self.shapes, self.seed)

    def pictures(self, size: Size = "size") -> np.ndarray:
        """float32[2,3,height,width], preprocessed."""
        return family_weights.pictures(getattr(self, size), self.seed)

    def expected(self, size: Size = "size", dtype: Literal["float32", "float64"] = "float64") -> np.ndarray:
        """Return the library's outputs for the two pictures, as an array [2,outputs] of type `dtype`."""
        return _arrays()[f"{self.name}/{size}/{dtype}"]

    def write(self, folder: Path, layout: Layout = "safetensors") -> Path:
        """Write the files that the library would save into `folder`, and return `folder`."""
        write_files(folder, self.config or None, self.tensors, layout)
        if self.preprocessor_config is not None:
            (folder / "preprocessor_config.json").write_text(json.dumps(self.preprocessor_config))
        return folder


def write_files(folder: Path, config: dict[str, Any] | None, tensors: Tensors, layout: Layout = "safetensors") -> None:
    """Write the tensors into a folder. If `config` is not None, also write it as config.json.

    `layout` selects one of these layouts for the tensors:

    - model.safetensors, or pytorch_model.bin in the form in which `torch.save` writes a state dict
    - two files in one of these formats, and their index
    - checkpoint.pth, in the layout that timm's training writes: under "model", with the names from DistributedDataParallel
    """
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    states = {name: torch.from_numpy(value) for name, value in tensors.items()}
    if layout == "safetensors":
        safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    elif layout in ("sharded", "sharded_bin"):
        stem, suffix = ("model", "safetensors") if layout == "sharded" else ("pytorch_model", "bin")
        places = {name: f"{stem}-0000{i % 2 + 1}-of-00002.{suffix}" for i, name in enumerate(tensors)}
        for file in set(places.values()):
            part = {name: value for name, value in tensors.items() if places[name] == file}
            if layout == "sharded":
                safetensors.numpy.save_file(part, folder / file, {"format": "pt"})
            else:
                torch.save({name: states[name] for name in part}, folder / file)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    elif layout == "bin":
        torch.save(states, folder / "pytorch_model.bin")
    else:
        content = {"epoch": 3, "arch": "vit", "model": {f"module.{name}": value for name, value in states.items()}}
        torch.save(content, folder / "checkpoint.pth")


@functools.cache
def families() -> dict[str, Family]:
    """Return the families by name."""
    return {name: Family(name, **case) for name, case in json.loads((DATA / "families.json").read_text())["cases"].items()}


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "families.npz"))

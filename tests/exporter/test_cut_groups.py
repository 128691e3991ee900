"""Routing groups that cut images: exported in a time like that of others, and right for each batch of whole groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vmoe_runtime import Engine, ImageError

_SECONDS = 120  # it takes 5


@pytest.mark.parametrize(("tokens", "multiple"), [(7, 7), (20, 2)])
def test_groups_of_tokens_that_cut_images(mnist_checkpoint: Path, tmp_path: Path, tokens: int, multiple: int) -> None:
    bundle = tmp_path / "cut.vmoe"
    tool = Path(sys.executable).with_name("vmoe-export")
    command = [tool, mnist_checkpoint, "--group", f"tokens:{tokens}", "-o", bundle, "-q"]
    subprocess.run(command, check=True, timeout=_SECONDS)
    images = np.random.default_rng(0).integers(0, 256, (3 * multiple, 28, 28, 1), np.uint8)
    with Engine.load(bundle, backend="onnxruntime") as engine:
        assert engine.manifest.batch_multiple == multiple
        together = engine(images)
        parts = [engine(images[i : i + multiple]) for i in range(0, len(images), multiple)]
        assert np.array_equal(together, np.concatenate(parts))
        with pytest.raises(ImageError, match=f"need a multiple of {multiple}"):
            engine(images[: multiple + 1])

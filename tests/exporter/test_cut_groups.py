"""Check routing groups whose boundaries lie inside images.

The results must be correct for each batch that consists of whole groups.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vmoe_export import export_bundle
from vmoe_runtime import Engine, ImageError


@pytest.mark.parametrize(("tokens", "multiple"), [(7, 7), (20, 2)])
def test_groups_of_tokens_that_cut_images(mnist_checkpoint: Path, tmp_path: Path, tokens: int, multiple: int) -> None:
    bundle = tmp_path / "cut.vmoe"
    export_bundle(mnist_checkpoint, bundle, group=f"tokens:{tokens}")
    images = np.random.default_rng(0).integers(0, 256, (3 * multiple, 28, 28, 1), np.uint8)
    with Engine.load(bundle, backend="onnxruntime") as engine:
        assert engine.manifest.batch_multiple == multiple
        together = engine(images)
        parts = [engine(images[i : i + multiple]) for i in range(0, len(images), multiple)]
        assert np.array_equal(together, np.concatenate(parts))
        with pytest.raises(ImageError, match=f"need a multiple of {multiple}"):
            engine(images[: multiple + 1])

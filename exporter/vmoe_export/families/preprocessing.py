"""How a model of another library takes pictures."""

from __future__ import annotations

from typing import Any

from vmoe_runtime.preprocessing import read_steps


def processor_steps(processor: Any, image_size: Any = None) -> Any:
    size = image_size or (224, 224)
    for key in ("crop_size", "size"):
        if key in processor and image_size is None:
            s = processor[key]
            size = (s["height"], s["width"]) if isinstance(s, dict) and "height" in s else size
            break
    if "input_size" in processor and image_size is None:
        size = tuple(processor["input_size"][-2:])
    mean = tuple(processor.get("image_mean") or processor.get("mean") or (0.5,) * 3)
    std = tuple(processor.get("image_std") or processor.get("std") or (0.5,) * 3)
    return read_steps(f"resize({size[0]},{size[1]})"), mean, std

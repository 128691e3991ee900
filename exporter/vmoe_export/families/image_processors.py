"""Translate another library's preprocessing to a bundle's steps, and to the pixels' mean and standard deviation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vmoe_export.errors import ConfigError
from vmoe_export.model.model_facts import mapping, number
from vmoe_runtime.preprocessing import MAX_SIDE, ROTATION, Preprocessing, read_steps

Colours = tuple[float, ...]
"""One number per channel."""

IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

_HALF: dict[str, Any] = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_CLIP: dict[str, Any] = {
    "image_mean": CLIP_MEAN,
    "image_std": CLIP_STD,
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
}
_ALL: dict[str, Any] = {"size": {"height": 224, "width": 224}, "crop_size": 224, "resample": 3, "rescale_factor": 1 / 255}
_ALL |= {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False, "do_pad": False}
_PROCESSORS = {"ViT": {**_ALL, **_HALF, "resample": 2}, "Siglip": _ALL | _HALF, "Bit": _ALL | _CLIP, "CLIP": _ALL | _CLIP}
_PROCESSORS["Siglip2"] = {**_ALL, **_HALF, "resample": 2, "patch_size": 16, "max_num_patches": 256}
_PROCESSORS["GotOcr2"] = {**_ALL, **_CLIP, "size": {"height": 384, "width": 384}, "do_center_crop": False}
_PROCESSORS["Tipsv2"] = {**_ALL, "size": 448, "resample": 2, "do_normalize": False}
_PROCESSORS["Tipsv2"] |= {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
_PROCESSORS["DeiT"] = {**_ALL, **_HALF, "size": 256, "do_center_crop": True}
_PROCESSORS["DINOv3ViT"] = {**_ALL, **IMAGENET, "resample": 2}  # resizes in float32; Pillow's pixel values differ by up to 1
"""Defaults of each image processor in transformers."""

_CLASS = re.compile(rf"({'|'.join(_PROCESSORS)})(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_TIMM: dict[str, Any] = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.875, "crop_mode": "center"}
_TIMM |= {"mean": IMAGENET["image_mean"], "std": IMAGENET["image_std"]}
_MOST = 1e6  # upper limit for means, for 1 / std and for 1 / crop_pct


def processor_steps(
    config: Mapping[str, Any], image_size: tuple[int, int] | None = None
) -> tuple[Preprocessing, Colours, Colours]:
    """Return the steps that turn a picture into an image, and each channel's mean and standard deviation.

    The model's input is (pixel / 255 - mean) / std, where `pixel` is a uint8 value that the steps return.

    Args:
        config: the content of a transformers `preprocessor_config.json` or a timm `pretrained_cfg`.
        image_size: (height, width) to use instead of the config's. The ratio between the crop and the resized picture does
            not change. If the picture's aspect ratio is kept, this ratio applies to the longer side of the image.

    Raises:
        ConfigError: the config is malformed, or needs steps that do not exist.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"the preprocessing config must be an object, not {config!r:.40}")
    given = {key: value for key, value in config.items() if value is not None}
    name = given.get("image_processor_type", given.get("feature_extractor_type"))
    if found := _CLASS.fullmatch(str(name)):
        given = _PROCESSORS[found[1]] | given
        text, size = _transformers(given, found[1], image_size)
        text = f"{ROTATION}|{text}"  # as transformers' `load_image` does
        mean, std = _colours(given, "image_mean", "image_std") if given["do_normalize"] else ((0.0,) * 3, (1.0,) * 3)
        unit = 1 if given["do_rescale"] else 255
        mean, std = tuple(value / unit for value in mean), tuple(value / unit for value in std)
    elif name is None and config.keys() & _TIMM.keys():
        given = _TIMM | given
        text, size = _timm(given, image_size)
        mean, std = _colours(given, "mean", "std")
    else:
        known = ", ".join(f"{kind}ImageProcessor" for kind in _PROCESSORS)
        raise ConfigError(f"the preprocessing config is for {name!r:.60}; supported are {known}, and timm's pretrained_cfg")
    try:
        steps = read_steps(text)
        steps.check_size(*size)
    except ValueError as error:
        raise ConfigError(f"the preprocessing config needs steps that do not exist: {error}") from None
    return steps, mean, std


def _timm(config: Mapping[str, Any], image_size: tuple[int, int] | None) -> tuple[str, tuple[int, int]]:
    """Return the steps of a `pretrained_cfg`, and the (height, width) of the images that the steps return."""
    given = config["input_size"]
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise ConfigError(f"the config's 'input_size' must be channels, height and width, not {given!r:.40}")
    height, width = image_size or (_pixels(given[1], "input_size"), _pixels(given[2], "input_size"))
    share = max(number(config, "crop_pct", 1), 1 / _MOST)
    how, mode = _known(config["interpolation"]), config["crop_mode"]
    if mode not in ("squash", "center"):
        raise ConfigError(f"timm's crop_mode {mode!r:.40} is not supported; 'center' and 'squash' are")
    down, across = math.floor(height / share), math.floor(width / share)
    # If the image is not square, squash the picture. No step can keep the picture's aspect ratio for an image that is not
    # square.
    sides = f"_small({down})" if mode == "center" and height == width else f"({down},{across})"
    return f"pillow_{how}{sides}|round_central_crop({height},{width})", (height, width)


def _transformers(config: Mapping[str, Any], kind: str, image_size: tuple[int, int] | None) -> tuple[str, tuple[int, int]]:
    """Return the steps of an image processor, and the (height, width) of the images that the steps return."""
    if not math.isclose(number(config, "rescale_factor", 1), 1 / 255, rel_tol=1e-6):
        raise ConfigError(f"the config's 'rescale_factor' must be 1/255, not {config['rescale_factor']!r:.60}")
    if type(config["resample"]) is not int:
        raise ConfigError(f"the config's 'resample' must be a number of Pillow's, such as 3, not {config['resample']!r:.40}")
    how = _known(_FILTERS.get(config["resample"], config["resample"]))
    if kind == "Siglip2":  # Siglip2 allows many image sizes; use the largest square
        rows = math.isqrt(_pixels(config["max_num_patches"], "max_num_patches"))
        side = rows * _pixels(config["patch_size"], "patch_size")
        config = {**config, "size": {"height": side, "width": side}}
    resized = _sides(config, "size", square=config.get("default_to_square", kind in ("ViT", "DeiT", "Tipsv2", "DINOv3ViT")))
    crop = _sides(config, "crop_size", square=True) if config["do_center_crop"] else resized
    if not config["do_resize"] or config["do_pad"] or config.get("crop_to_patches") or len(crop) < 2:
        raise ConfigError("the config makes images of several sizes, or pads them; it must resize and crop without padding")
    height, width = image_size or crop
    if len(resized) == 1:
        text = f"pillow_{how}_small({round(resized[0] * max(height, width) / max(crop))})"
    else:
        text = f"pillow_{how}({round(resized[0] * height / crop[0])},{round(resized[1] * width / crop[1])})"
    return text + (f"|central_crop({height},{width})" if config["do_center_crop"] else ""), (height, width)


def _known(how: Any) -> Any:
    if how not in ("bilinear", "bicubic"):
        raise ConfigError(f"the config resizes pictures by {how!r:.40}, but only 'bilinear' and 'bicubic' are supported")
    return how


def _sides(config: Mapping[str, Any], key: str, *, square: bool) -> tuple[int, ...]:
    """Return a size field as (height, width) or (short side,).

    With `square`, a single number is the side of a square.
    """
    if isinstance(config[key], int):
        side = _pixels(config[key], key)
        return (side, side) if square else (side,)
    sides = {name: _pixels(side, key) for name, side in mapping(config, key).items() if side is not None}
    for names in (("height", "width"), ("shortest_edge",)):
        if sides.keys() == {*names}:
            return tuple(sides[name] for name in names)
    raise ConfigError(f"the config's {key!r} must have 'height' and 'width', or 'shortest_edge', not {[*sides]!r:.60}")


def _pixels(value: Any, key: str) -> int:
    if type(value) is not int or not 0 < value <= MAX_SIDE:
        raise ConfigError(f"the config's {key!r} must be 1 to {MAX_SIDE} pixels, not {value!r:.40}")
    return value


def _colours(config: Mapping[str, Any], *keys: str) -> tuple[Colours, Colours]:
    for key in keys:
        found = config[key] if isinstance(config[key], list | tuple) else []
        fits = [type(value) in (int, float) and (0 if key == keys[0] else 1 / _MOST) <= value < _MOST for value in found]
        if len(fits) not in (1, 3) or not all(fits) or len(found) != len(config[keys[0]]):
            raise ConfigError(f"the config's {key!r} must be a positive number for each channel, not {config[key]!r:.60}")
    mean, std = (tuple(map(float, config[key])) for key in keys)
    return mean, std

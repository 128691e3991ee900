"""Small CLIP, SigLIP and TIPSv2 models with tokenizers and random weights, and the outputs of their libraries.

The models are saved as files in the form that transformers or open_clip uses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from picture_file import write_pictures

NAMES = ("cat", "dog", "red fox", "Abyssinian", "plane")
TEMPLATES = ("a photo of a {}.", "this is {}")
SIDE = 32
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": SIDE, "patch_size": 8}
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
HALF = np.array([0.5, 0.5, 0.5])
SCALE, BIAS = 8.0, 0.5


class Answers(NamedTuple):
    """A library's results for pictures and texts.

    They are the logits, float32[images, classes], the normalized embeddings of the texts, and those of the pictures.
    """

    logits: np.ndarray
    texts: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Zeroshot:
    """A model folder, and the outputs of the model's library.

    Attributes:
        folder: folder of the model.
        probabilities: "softmax" or "sigmoid", the function that converts the model's logits to probabilities.
        answers: a function that returns the library's results for pictures uint8[images,H,W,3] and texts.
        bias: number that the model adds to its logits.
    """

    folder: Path
    probabilities: str
    answers: Callable[[np.ndarray, Sequence[str]], Answers]
    bias: float

    def expected(self, pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Return the library's probabilities as float64[images, classes]."""
        logits = torch.from_numpy(self.answers(pictures, texts).logits).double()
        return (logits.sigmoid() if self.probabilities == "sigmoid" else logits.softmax(dim=-1)).numpy()


def pictures(count: int = 20) -> np.ndarray:
    """Return pictures uint8[count,32,32,3] with coarse patterns.

    Such pictures differ more from one another than pictures of noise.
    """
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


def picture_files(folder: Path) -> list[Path]:
    """Write the pictures as PNG files into a folder, and return the sorted file paths."""
    return sorted(path.rename(path.with_stem(f"{path.stem:0>2}")) for path in write_pictures(folder, pictures()))


def _pixels(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


def _randomized(model: Any, scale: float = 0.25) -> Any:
    """Randomize the weights so that outputs differ between texts and between images.

    The outputs of a new model with its initial weights hardly differ.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, scale, generator=generator)
            elif name.endswith("bias") and name != "logit_bias":
                tensor.normal_(0, 0.1, generator=generator)
        if hasattr(model, "temperature"):
            model.temperature.fill_(1 / SCALE)
        else:
            model.logit_scale.fill_(np.log(SCALE))
        if getattr(model, "logit_bias", None) is not None:
            model.logit_bias.fill_(BIAS)
    return model.eval()


def hf_clip(folder: Path) -> Zeroshot:
    """Make a transformers CLIP model, with CLIP's tokenizer and a vocabulary of bytes."""
    from transformers import CLIPConfig, CLIPModel

    letters = [*map(chr, range(33, 127)), "Ġ"]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    end = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    text = {**SIZES, **end, "vocab_size": len(vocabulary), "max_position_embeddings": 40}
    model = _randomized(CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    _write_processor(folder, "CLIPImageProcessor", MEAN, STD)
    return _of_transformers(folder, model, "softmax", (MEAN, STD))


def hf_siglip(folder: Path) -> Zeroshot:
    """Make a transformers SigLIP model. Its tokenizer splits text into letters and returns no attention mask."""
    from transformers import SiglipConfig, SiglipModel

    text = _write_letters(folder, ["input_ids"]) | {"projection_size": 32, "bos_token_id": 1, "eos_token_id": 1}
    model = _randomized(SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)))
    model.save_pretrained(folder)
    _write_processor(folder, "SiglipImageProcessor", HALF, HALF)
    return _of_transformers(folder, model, "sigmoid", (HALF, HALF))


def hf_siglip2(folder: Path) -> Zeroshot:
    """Make a transformers SigLIP 2 NaFlex model, which takes a picture as a grid of patches."""
    from transformers import Siglip2Config, Siglip2Model

    text = _write_letters(folder, ["input_ids"]) | {"projection_size": 32, "bos_token_id": 1, "eos_token_id": 1}
    vision = {**SIZES, "patch_size": 8, "num_patches": 16}
    model = _randomized(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)))
    model.save_pretrained(folder)
    processor = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8, "max_num_patches": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))

    def patches(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(pixels)
        cut = pixels.reshape(count, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(count, 16, -1)
        grid = torch.full((count, 2), 4)
        return {"pixel_values": cut, "pixel_attention_mask": torch.ones(count, 16).long(), "spatial_shapes": grid}

    return _of_transformers(folder, model, "sigmoid", (HALF, HALF), patches)


def hf_tipsv2(folder: Path) -> Zeroshot:
    """Make a transformers TIPSv2 model.

    Its tokenizer splits text into letters and returns an attention mask that hides padding.
    """
    from transformers import Tipsv2Config, Tipsv2Model

    text = _write_letters(folder, ["input_ids", "attention_mask"])
    model = _randomized(Tipsv2Model(Tipsv2Config(text_config=text, vision_config=VISION)))
    model.save_pretrained(folder)
    _write_processor(folder, "Tipsv2ImageProcessor", 0 * HALF, 2 * HALF)
    return _of_transformers(folder, model, "softmax", (0 * HALF, 2 * HALF))


def _write_letters(folder: Path, inputs: list[str]) -> dict[str, Any]:
    """Write a tokenizer that splits text into letters and returns the model inputs listed in `inputs`.

    Return a config for a text tower that uses this tokenizer.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *map(chr, range(97, 123)), " ", "."])}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.normalizer = normalizers.Lowercase()
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    given = {"pad_token": "<pad>", "unk_token": "<unk>", "model_input_names": inputs, "padding_side": "right"}
    PreTrainedTokenizerFast(tokenizer_object=letters, **given).save_pretrained(folder)
    return {**SIZES, "vocab_size": len(vocabulary), "max_position_embeddings": 32, "pad_token_id": 0}


def open_clip(folder: Path) -> Zeroshot:
    """Make an open_clip CLIP model, which has its own tokenizer."""
    import open_clip as library
    from safetensors.torch import save_file

    vision = {"image_size": SIDE, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    folder.mkdir(parents=True, exist_ok=True)
    made = {"model_cfg": config, "preprocess_cfg": {"mean": MEAN.tolist(), "std": STD.tolist()}}
    (folder / "open_clip_config.json").write_text(json.dumps(made))
    model = _randomized(library.CLIP(24, library.CLIPVisionCfg(**vision), library.CLIPTextCfg(**text), quick_gelu=True))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    tokenizer = library.SimpleTokenizer()

    @torch.inference_mode()
    def answers(images: np.ndarray, texts: Sequence[str]) -> Answers:
        pixels, ids = _pixels(images, MEAN, STD), tokenizer(list(texts))
        made = model.get_logits(pixels, ids)[0], model.encode_text(ids, True), model.encode_image(pixels, True)
        return Answers(*(tensor.numpy() for tensor in made))

    return Zeroshot(folder, "softmax", answers, 0.0)


def _of_transformers(
    folder: Path,
    model: Any,
    probabilities: str,
    colours: tuple[np.ndarray, np.ndarray],
    given: Callable[[torch.Tensor], dict[str, torch.Tensor]] = lambda pixels: {"pixel_values": pixels},
) -> Zeroshot:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    length, masks = model.config.text_config.max_position_embeddings, model.config.model_type == "tipsv2"

    @torch.inference_mode()
    def answers(images: np.ndarray, texts: Sequence[str]) -> Answers:
        ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        known = {name: ids[name] for name in tokenizer.model_input_names if masks or name == "input_ids"}
        found = model(**known, **given(_pixels(images, *colours)))
        return Answers(*(tensor.numpy() for tensor in (found.logits_per_image, found.text_embeds, found.image_embeds)))

    return Zeroshot(folder, probabilities, answers, BIAS if hasattr(model, "logit_bias") else 0.0)


def _write_processor(folder: Path, kind: str, mean: np.ndarray, std: np.ndarray) -> None:
    size = {"height": SIDE, "width": SIDE}
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": size} if kind.startswith("CLIP") else {"size": size}
    colours = {"image_mean": mean.tolist(), "image_std": std.tolist()}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **crop, **colours}))


MODELS: dict[str, Callable[[Path], Zeroshot]] = {
    "hf_clip": hf_clip,
    "hf_siglip": hf_siglip,
    "hf_siglip2": hf_siglip2,
    "hf_tipsv2": hf_tipsv2,
    "open_clip": open_clip,
}

"""Small CLIPs and SigLIPs with random weights, and their tokenizers, as transformers and open_clip save them; what those
libraries answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

NAMES = ("cat", "dog", "red fox", "Abyssinian", "plane")
TEMPLATES = ("a photo of a {}.", "this is {}")
SIDE = 32
MEAN, STD = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
HALF = np.array([0.5, 0.5, 0.5])


@dataclass(frozen=True)
class Zeroshot:
    """A model folder, and its library's own answers.

    Attributes:
        folder: of the model.
        probabilities: what its kind of logits becomes.
        logits: float32[images, classes] of pictures uint8[images,H,W,3] and texts, by the library's whole model.
        embeddings: float32[texts, E], normalized, of texts; and float32[images, E] of pictures.
    """

    folder: Path
    probabilities: str
    logits: Callable[[np.ndarray, Sequence[str]], np.ndarray]
    embeddings: Callable[[np.ndarray, Sequence[str]], tuple[np.ndarray, np.ndarray]]
    scale: float
    bias: float

    def expected(self, pictures: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """float64[images, classes]: the library's probabilities."""
        logits = torch.from_numpy(self.logits(pictures, texts)).double()
        return (logits.sigmoid() if self.probabilities == "sigmoid" else logits.softmax(dim=-1)).numpy()


def pictures(count: int = 20) -> np.ndarray:
    """uint8[count,32,32,3], coarse ones, which differ more than noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return coarse.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)


def picture_files(folder: Path) -> list[Path]:
    """The pictures as PNG files, sorted."""
    paths = [folder / f"{number:02}.png" for number in range(20)]
    for path, picture in zip(paths, pictures(), strict=True):
        Image.fromarray(picture).save(path)
    return paths


def _pixels(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))


def _randomized(model: Any, scale: float = 0.25) -> Any:
    """Weights that tell texts and images apart, which those of a new model hardly do."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(0, scale, generator=generator)
            elif name.endswith("bias") and name != "logit_bias":
                tensor.normal_(0, 0.1, generator=generator)
        model.logit_scale.fill_(2.0)
        if getattr(model, "logit_bias", None) is not None:
            model.logit_bias.fill_(0.5)
    return model.eval()


def hf_clip(folder: Path) -> Zeroshot:
    """CLIP of transformers, with the tokenizer of CLIP and a vocabulary of bytes."""
    from transformers import CLIPConfig, CLIPModel

    letters = [*map(chr, range(33, 127)), "Ġ"]
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    text = {**sizes, **end, "vocab_size": len(vocabulary), "max_position_embeddings": 40}
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    model = _randomized(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)))
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    _write_processor(folder, "CLIPImageProcessor", MEAN, STD)
    return _of_transformers(folder, model, "softmax", (MEAN, STD))


def hf_siglip(folder: Path) -> Zeroshot:
    """SigLIP of transformers, with a tokenizer of letters that returns no mask."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *map(chr, range(97, 123)), " ", "."])}
    letters = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    letters.normalizer = normalizers.Lowercase()
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    given = {"pad_token": "<pad>", "unk_token": "<unk>", "model_input_names": ["input_ids"], "padding_side": "right"}
    PreTrainedTokenizerFast(tokenizer_object=letters, **given).save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(vocabulary), "max_position_embeddings": 32, "projection_size": 32}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    model = _randomized(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    model.save_pretrained(folder)
    _write_processor(folder, "SiglipImageProcessor", HALF, HALF)
    return _of_transformers(folder, model, "sigmoid", (HALF, HALF))


def open_clip(folder: Path) -> Zeroshot:
    """CLIP of open_clip, which has its own tokenizer."""
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

    def embeddings(images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            ours = model.encode_text(tokenizer(list(texts)), normalize=True)
            return ours.numpy(), model.encode_image(_pixels(images, MEAN, STD), normalize=True).numpy()

    def logits(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            return model.get_logits(_pixels(images, MEAN, STD), tokenizer(list(texts)))[0].numpy()

    return Zeroshot(folder, "softmax", logits, embeddings, float(np.exp(2.0)), 0.0)


def _of_transformers(folder: Path, model: Any, probabilities: str, colours: tuple[np.ndarray, np.ndarray]) -> Zeroshot:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings

    def inputs(images: np.ndarray, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        ids = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        return {"input_ids": ids, "pixel_values": _pixels(images, *colours)}

    def logits(images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        with torch.inference_mode():
            return model(**inputs(images, texts)).logits_per_image.numpy()

    def embeddings(images: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            found = model(**inputs(images, texts))
        return found.text_embeds.numpy(), found.image_embeds.numpy()

    bias = getattr(model, "logit_bias", None)
    return Zeroshot(
        folder, probabilities, logits, embeddings, float(np.exp(2.0)), 0.0 if bias is None else float(bias.item())
    )


def _write_processor(folder: Path, kind: str, mean: np.ndarray, std: np.ndarray) -> None:
    size = {"height": SIDE, "width": SIDE}
    crop = {"size": {"shortest_edge": SIDE}, "crop_size": size} if kind.startswith("CLIP") else {"size": size}
    colours = {"image_mean": mean.tolist(), "image_std": std.tolist()}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **crop, **colours}))


MODELS: dict[str, Callable[[Path], Zeroshot]] = {"hf_clip": hf_clip, "hf_siglip": hf_siglip, "open_clip": open_clip}

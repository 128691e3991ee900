"""Write the model card `README.md`.

The card is for users of the Hugging Face Hub. It explains the bundle and how to run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmoe_runtime.bundle.manifest import Manifest

_CARD = """\
---
license: unknown
library_name: vmoe-export
pipeline_tag: {task}
tags:
{tags}
---

# {title}

{producer} made this bundle, which ONNX Runtime and OpenVINO run.

- Model: {model}
- Source: `{source}` ({format}), SHA-256 `{sha256}`
- Images: {image}
- Output: {outputs}
- Precision: {precision}
- Licence: unknown to the exporter; if you publish the bundle, state it here and in the metadata

## Settings

| profile | capacity ratio | k | slots per expert | GFLOP per image | top-1 |
|---|---|---|---|---|---|
{settings}

A dense ViT of the same size takes {dense:.3g} GFLOP per image. `vmoe bench` measures accuracy and speed on your images.

## Run

`pip install 'vmoe-export[cpu,images]'`, and with this folder as `model.vmoe`:

```python
from vmoe_runtime import Engine
engine = Engine.load("model.vmoe")
print(engine{call})
```
"""


def model_card(content: Mapping[str, Any], manifest: Manifest) -> str:
    """Return the card in Markdown, with metadata in YAML. All of the card's facts come from the manifest.

    Args:
        content: the content of `manifest.json`.
        manifest: the same manifest, in the form that the bundle reader returns.
    """
    source, image, flops = content["source"], manifest.input, content["flops_per_image"]
    # Replace line breaks and characters that end inline code or start HTML by underscores.
    name = "".join(c if c.isprintable() and c not in "`<>" else "_" for c in source["name"])
    measured = {each["profile"]: each for each in (content["validation"] or {}).get("distance_from_fp32", ())}
    settings = []
    for profile in content["profiles"] or [{"name": None}]:
        label, found = profile["name"], measured.get(profile["name"], {"top1": None})
        # If a Soft MoE has no profiles, leave out its cost, because the dense model's FLOPs are not those of a Soft MoE.
        cost = None if label is None and manifest.moe_layers else flops.get(label or "dense")
        cells = [f"`{label}`" if label else "-", *(profile.get(field, "-") for field in ("capacity_ratio", "k"))]
        cells += [profile.get("capacity", "-")[0], "-" if cost is None else f"{cost / 1e9:.3g}"]
        cells += ["-" if found["top1"] is None else f"{found['top1']:.2%} of {found['images']} images"]
        settings.append(f"| {' | '.join(map(str, cells))} |")
    photos = '["photo.jpg"]' + (f" * {manifest.batch_multiple}" if manifest.batch_multiple > 1 else "")
    tags = ["vision", "onnx", "vision-transformer", *(["mixture-of-experts", "v-moe"] if manifest.moe_layers else [])]
    return _CARD.format(
        task="image-classification" if manifest.output in ("logits", "members") else "image-feature-extraction",
        tags="\n".join(f"- {tag}" for tag in tags),
        title=name.rpartition("/")[2],
        producer=f"{content['producer']['name']} {content['producer']['version']}",
        model=manifest.summary,
        source=name,
        format=source["format"],
        sha256=source["sha256"],
        image=f"{image.dtype} [{image.height}, {image.width}, {image.channels}], `{image.steps}` of a picture",
        outputs=", ".join(f"{name}, {' x '.join(map(str, shape))} values" for name, shape in manifest.answers.items()),
        precision=manifest.precision,
        settings="\n".join(settings),
        dense=flops["dense"] / 1e9,
        call=f".classify({photos}, top=5)" if manifest.output == "logits" else f"({photos})",
    )

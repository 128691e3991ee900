"""The command `vmoe zeroshot`, which is `vmoe export` with a head that is computed from class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vmoe_export.bundle.bundle_writer import check_target
from vmoe_export.command import class_names_of, default_target, export
from vmoe_export.options.command_line import FIELD_HELP
from vmoe_export.zeroshot.head import DEFAULT_TEMPLATES, openai_templates, zeroshot_head
from vmoe_tools.options import CONTEXT

_LEFT_OUT = {"output", "head", "normalize", "probabilities", "preset", "class_names"}
"""Options of `vmoe export` that a zero-shot classifier sets itself or does not use."""


def _zeroshot(class_names: str, templates: tuple[str, ...], template_list: str | None, **given: Any) -> None:
    if templates and template_list:
        raise click.UsageError("--template and --templates exclude each other")
    names = class_names_of(class_names)
    target = given["out"] or default_target(given["checkpoint"], given["precision"])
    if not given["dry_run"]:
        check_target(target, force=given["force"], sources=[Path(given["checkpoint"])])
    texts = openai_templates() if template_list else templates or DEFAULT_TEMPLATES
    with zeroshot_head(given["checkpoint"], names, texts, given["architecture"]) as fields:
        assert export.callback is not None
        export.callback(**{**given, **fields, "class_names": class_names})


zeroshot = click.Command(
    "zeroshot",
    context_settings=CONTEXT,
    callback=_zeroshot,
    help="""Export a CLIP, SigLIP or TIPSv2 as a classifier for classes that you name.

    CKPT is a local transformers or open_clip folder with both towers and the tokenizer, or a single open_clip file if you
    name its --architecture. That library encodes the texts during the export, and their embeddings become the head of the
    bundle. All other options are those of vmoe export.

    Example: vmoe zeroshot ./clip-vit-base-patch32 --class-names pets.txt -o pets.vmoe
    """,
    params=[
        *(param for param in export.params if param.name not in _LEFT_OUT),
        click.Option(
            ["--class-names"],
            metavar="FILE|LIST",
            required=True,
            help=FIELD_HELP["class_names"],
        ),
        click.Option(
            ["--template", "templates"],
            metavar="TEXT",
            multiple=True,
            help="Text with a {} for the class name. Repeatable; a class gets the mean of its texts. "
            f"Default: '{DEFAULT_TEMPLATES[0]}'",
        ),
        click.Option(
            ["--templates", "template_list"],
            type=click.Choice(["openai"]),
            help="Use the texts that OpenAI evaluated CLIP with on ImageNet, from the installed open_clip.",
        ),
    ],
)

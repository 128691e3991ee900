"""The command `vmoe page`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vmoe_runtime.bundle.manifest import CANONICAL_GRAPH, WEIGHTS_NAME
from vmoe_runtime.bundle.reader import Bundle, while_unchanged
from vmoe_tools import options
from vmoe_tools.output import FolderKind
from vmoe_tools.page.contents import graph_without_defaults, page_facts
from vmoe_tools.page.onnxruntime_web import BUILDS, web_files
from vmoe_tools.program import printable

PAGE = FolderKind("page", "vmoe page", "page.json", "vmoe-page")
_SITE = Path(__file__).parent / "site"


@click.command(context_settings=options.CONTEXT)
@options.bundle_argument
@options.out_option("DIR", "The folder to write.", required=True)
@click.option(
    "--onnxruntime-web",
    "web_folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of the unpacked npm package onnxruntime-web, for machines without a network. Default: fetch it with npm.",
)
@click.option("--force", is_flag=True, help="Replace a page that this command wrote.")
@options.verbose_option
@options.errors_only_option
def page(bundle: Path, out: Path, web_folder: Path | None, force: bool, quiet: bool) -> None:
    """Write a static web page that runs the bundle in a browser. It shows the effect of capacity on a picture.

    Any web server can serve the folder, and the page loads nothing from other hosts. You draw a digit or drop a picture,
    and change the capacity and the other settings. The page shows classes, dropped and merged patches, experts, time and
    FLOPs. The weights are a hard link in the folder, or a copy if the file system doesn't support hard links.
    """
    PAGE.check(out, force=force)
    facts, graph = while_unchanged(lambda: _verified(bundle))
    web, origin = web_files(web_folder)
    sizes = {build: sum(len(web[name]) for name in names) for build, names in BUILDS.items()}
    facts["builds"] = {build: {"module": _served(names[0]), "bytes": sizes[build]} for build, names in BUILDS.items()}
    contents: dict[str, bytes | Path] = {path.name: path.read_bytes() for path in sorted(_SITE.iterdir())}
    contents |= {f"onnxruntime-web/{_served(name)}": content for name, content in web.items()}
    contents |= {CANONICAL_GRAPH: graph, WEIGHTS_NAME: bundle.absolute() / WEIGHTS_NAME}
    PAGE.write(out, contents, facts, force=force)
    if not quiet:
        wasm, webgpu = (f"{size / 1e6:.1f}" for size in sizes.values())
        model = sum(facts["bytes"].values()) / 1e6
        click.echo(f"onnxruntime-web {printable(origin)}: {wasm} MB, or {webgpu} MB with WebGPU; the model: {model:,.1f} MB")
        click.echo(f"python3 -m http.server --directory {printable(str(out))}")


def _served(name: str) -> str:
    """Return the name that an onnxruntime-web file has in the page. It ends in .js instead of .mjs.

    nginx and other web servers don't serve .mjs files as scripts.
    """
    return name.replace(".mjs", ".js")


def _verified(path: Path) -> tuple[dict[str, Any], bytes]:
    """Check every byte of a bundle. Return the page's data about it, and the bundle's graph without default values.

    The caller must make hard links only after the bundle is closed. A link changes a file's metadata, so an open bundle
    would seem to have been changed.
    """
    with Bundle.open_once(path) as bundle:
        facts, graph = page_facts(bundle), graph_without_defaults(bundle.graph(CANONICAL_GRAPH).data)
        bundle.verify_weights()
    return facts, graph

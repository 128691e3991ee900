"""The documentation can be followed: links, command lines, options, Python programs, quoted messages, and the site."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_reference import ARGPARSE_MODULES, command_help
from documentation import OWN, PAGES, ROOT, Block, anchors, blocks, command_lines, links, spans
from documented_commands import PROJECT, WrongCommandError, check, own_options

import vmoe_export
import vmoe_runtime

PROGRAMS = re.compile(r"(?:\.venv/bin/)?(vmoe-[a-z]+|python|make|pytest|pip)( |$)")
# Options that the pages name of scripts and of other programs; what a block shows with its program is checked there.
FOREIGN_OPTIONS = {
    *("--cflags", "--libs"),  # pkg-config
    "--preload",  # gunicorn
    "--representation-size",  # samples/random_checkpoint.py
    "--service",  # benchmarks/serving.py, tests/support/soak.py
}
PYTHON = [block for page in OWN for block in blocks(page) if block.language == "python"]
# Programs that need what a test doesn't have.
NOT_RUN = {ROOT / "docs" / "triton.md": "a client of a running server"}


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"https?:", link):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and (target.suffix != ".md" or anchor not in anchors(target))):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_line_can_be_typed(page: Path) -> None:
    wrong = []
    for block, line in command_lines(page):
        try:
            check(line)
        except WrongCommandError as error:
            wrong.append(f"{block}: {line}: {error}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_command_and_option_in_the_text_is_there(page: Path) -> None:
    wrong = []
    for span in spans(page):
        program = PROGRAMS.match(span)
        if program and program[1].startswith("vmoe-"):
            known = program[1] in PROJECT["scripts"] or program[1] == "vmoe-http"
            wrong += [] if known else [span]
        elif program and " " in span and not re.search(r"\.\.\.|\bPAGE\b|\bDIR\b|\|", span):
            try:
                check(span)
            except WrongCommandError as error:
                wrong.append(f"{span}: {error}")
        if page in OWN and (not program or program[1].startswith("vmoe-")):
            options = re.findall(r"(?:^|[ \[])(--[a-zA-Z][\w-]*)", span)
            wrong += [f"{span}: {option}" for option in options if option not in own_options() | FOREIGN_OPTIONS]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "vmoe-export ckpt --capasity 0.3",
        "vmoe-export ckpt --precision fp8",
        "vmoe-bench mnist.vmoe --swep 0.1:2.0",
        "vmoe-bench mnist.vmoe --add-profile",
        "vmoe-report mnist.vmoe -o report.html",
        "vmoe-serve rai mnist.vmoe",
        "vmoe-serve ray mnist.vmoe --slo 50",
        "vmoe-serve batch b16.vmoe photos",
        "vmoe-deploy mnist.vmoe",
        "make tests",
        "make gpu-test GPU_OPTIONS=--quick",
        "pip install '.[cpus]'",
        "pip install -r requirements.txt",
        ".venv/bin/pytest tests/test_nothing.py",
        "python samples/onnxruntime_plain.py mnist.vmoe data.npz --profiles c0.3-k1",
        "python samples/random_checkpoint.py s32 --variants S/32",
        "python benchmarks/serving.py traces b16.vmoe --slo-ms 50",
        "python benchmarks/gone.py",
        "python -m vmoe_runtime --op-librari",
        "python -m vmoe_gone",
        "cmake -S samples/cpp_gone -B build",
        "cmake -S plugins -B build -DVMOE_GPUS=ON",
        "A=1 vmoe-run mnist.vmoe seven.png && echo done",
        "cmake -S plugins -B build -DCMAKE_PREFIX_PATH=$(python -m vmoe_runtime --cmake-dirs)",
    ],
)
def test_a_wrong_command_line_is_found(line: str) -> None:
    with pytest.raises(WrongCommandError):
        check(line)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    lines = [line for _, line in command_lines(ROOT / "README.md")]
    assert "make test     # sets everything up, runs every check" in lines
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory, mnist_bundle: Path, mnist_image_bundle: Path) -> Path:
    """Where the examples run: the bundles that the pages name, and the samples."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "samples").symlink_to(ROOT / "samples")
    for name, bundle in {"mnist": mnist_image_bundle, "mnist-alone": mnist_image_bundle, "mnist-16": mnist_bundle}.items():
        (folder / f"{name}.vmoe").symlink_to(bundle)
    return folder


@pytest.mark.parametrize("block", [block for block in PYTHON if block.page not in NOT_RUN], ids=str)
def test_python_runs(
    block: Block, example_folder: Path, mnist_images: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example_folder)
    images = mnist_images["images"][:32, ..., None].astype(np.float32) / 255 * 2 - 1
    names: dict[str, Any] = {"images": images, "known": images, "labels": mnist_images["labels"][:32]}
    exec(compile(block.text, str(block), "exec"), names)


@cache
def said() -> tuple[str, ...]:
    """All text that the sources hold, joined where a program joins it."""
    texts = []
    for folder in ("runtime", "exporter"):
        for path in (ROOT / folder).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "plugins" / "sdk").glob("*.cc")]
    return tuple(texts)


MESSAGES = [
    row[1]
    for row in re.finditer(r"^\| `(.*?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    if row[1] != "message"
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_troubleshooting_is_one_that_is_said(message: str) -> None:
    parts = [part.strip() for part in message.split("…") if len(part.strip()) > 3]
    assert parts
    assert [part for part in parts if not any(part in text for text in said())] == []


def test_the_page_of_commands_has_every_command() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    marked = set(re.findall(r"^<!-- options: (.*) -->$", page, re.MULTILINE))
    assert marked == {"vmoe-export", *ARGPARSE_MODULES}
    assert {name.partition(" ")[0] for name in marked} - {"python"} == set(PROJECT["scripts"])
    targets = set(re.findall(r"`make ([\w-]+)`", page))
    phony = set(re.findall(r"^# make ([\w-]+) ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert phony <= targets


def test_the_page_of_the_python_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert [name for name in {*vmoe_runtime.__all__, *vmoe_export.__all__} - {"__version__"} if name not in page] == []


@pytest.mark.parametrize("command", ["vmoe-export", *ARGPARSE_MODULES])
def test_every_option_has_a_meaning(command: str) -> None:
    found = command_help(command)
    assert found.usage.startswith(command)
    assert len(found.options) > 3
    assert [option.written for option in found.options if not option.help] == []


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("MkDocs, Material or mkdocstrings is not installed: pip install '.[docs]'")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    site = tmp_path / "site"
    assert "--max-drop-in-accuracy" in (site / "reference" / "commands.html").read_text()
    assert "calibrated_margin" in (site / "reference" / "python.html").read_text()
    assert "vmoe_engine_load" in (site / "reference" / "cpp.html").read_text()
    assert (site / "source" / "plugins" / "tensorrt" / "index.html").is_file()
    elsewhere = re.compile(r'(?:src|href)="(https?://[^"]*\.(?:js|css))')
    assert [found for page in site.rglob("*.html") for found in elsewhere.findall(page.read_text())] == []

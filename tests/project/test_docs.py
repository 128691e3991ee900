"""Check the documentation: links have targets, commands and programs run, and the site builds."""

from __future__ import annotations

import builtins
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import pytest
import sdk_build

import vmoe_export
import vmoe_runtime
import vmoe_torch
from vmoe_tools.program import main, program

ROOT = Path(__file__).parents[2]
OWN = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MORE = [path for name in ("plugins", "samples", "benchmarks", "conformance") for path in sorted((ROOT / name).rglob("*.md"))]
PAGES = [*OWN, ROOT / "CONTRIBUTING.md", *MORE]
NOT_RUN = {"docs/triton.md"}  # its client needs a running server

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in _BLOCK.findall(page.read_text()) if found == language]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, which are the same on GitHub and on the site."""
    headings = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not re.match(r"https?:", link) and not (target.exists() and (not anchor or anchor in anchors(target))):
            wrong.append(link)
    assert wrong == []


@pytest.mark.fast
def test_builds_by_hand_keep_out_of_the_folder_that_pip_builds_in() -> None:
    """Check that no page builds in build/native, the folder in which pip builds.

    If pip and a manual build shared the folder, the second build would fail. CMake's cache would contain another
    generator, or a ninja that has been removed.
    """
    assert [page_name(page) for page in PAGES if re.search("cmake .*build/native", page.read_text())] == []


@pytest.mark.fast
def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"^\$ make test ", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "make test"


@pytest.fixture(scope="module")
def example_folder(tmp_path_factory: pytest.TempPathFactory, mnist_bundle: Path, mnist_image_bundle: Path) -> Path:
    """Make the folder in which the examples run.

    It contains the samples and the bundles that the pages mention.
    """
    folder = tmp_path_factory.mktemp("examples")
    (folder / "samples").symlink_to(ROOT / "samples")
    for name, bundle in {"mnist": mnist_image_bundle, "mnist-16": mnist_bundle}.items():
        (folder / f"{name}.vmoe").symlink_to(bundle)
    return folder


@pytest.mark.parametrize("page", [page for page in OWN if blocks(page, "python")], ids=page_name)
def test_python_runs(page: Path, example_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each Python block of a page on its own, as if a reader had copied it into a file."""
    monkeypatch.chdir(example_folder)
    for text in blocks(page, "python"):
        code = compile(text, page_name(page), "exec")
        if page_name(page) not in NOT_RUN:
            exec(code, {})


def test_the_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist_digits: Path) -> None:
    """Run export, run, sweep and report in this order, in one empty folder.

    The sweep uses fewer images and settings than in the README.
    """
    (tmp_path / "samples").symlink_to(ROOT / "samples")
    monkeypatch.chdir(tmp_path)
    shell = "".join(blocks(ROOT / "README.md", "console")).replace("\\\n", " ")
    lines = [line for line in re.findall(r"^\$ (vmoe.*)$", shell, re.MULTILINE) if not line.startswith("vmoe serve")]
    assert [shlex.split(line)[:2] for line in lines[:4]] == [
        ["vmoe-export", "samples/mnist/vmoe_mnist"],
        *(["vmoe", name] for name in ("run", "bench", "report")),
    ]
    for line in lines:
        words = shlex.split(line.replace("samples/mnist/test_data.npz", str(mnist_digits)))
        words = ["export", *words[1:]] if words[0] == "vmoe-export" else words[1:]
        assert main([*words, *(["--duration", "0.1"] if words[0] in ("bench", "report") else [])]) == 0, line
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_the_program_of_the_c_page_is_built_and_runs_as_it_stands(example_folder: Path) -> None:
    sdk_build.prefixes()  # skips the test if there is no SDK
    page = ROOT / "docs" / "cpp.md"
    program, (project,), shell = blocks(page, "cpp")[0], blocks(page, "cmake"), blocks(page, "console")[-1]
    (example_folder / "classify.cc").write_text(program)
    (example_folder / "CMakeLists.txt").write_text(project)
    environment = {name: value for name, value in os.environ.items() if name != "VMOE_ONNXRUNTIME"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    lines = re.findall(r"^\$ (.*)$", shell, re.MULTILINE)
    command = ["bash", "-ec", "\n".join(lines)]
    done = subprocess.run(command, cwd=example_folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with vmoe_runtime.Engine.load(example_folder / "mnist.vmoe") as engine:
        logits = engine(np.full((1, 28, 28, 1), 128, np.uint8), capacity=0.3)[0]
    assert done.stdout.splitlines()[-2:] == [f"{logits.argmax()} {logits.max():.4f}"] * 2


def test_the_page_of_the_python_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text()
    assert [
        name
        for name in {*vmoe_runtime.__all__, *vmoe_export.__all__, *vmoe_torch.__all__} - {"__version__"}
        if name not in page
    ] == []


@pytest.mark.parametrize("package", [vmoe_runtime, vmoe_export, vmoe_torch])
def test_every_error_that_public_docstrings_name_is_public(package: ModuleType) -> None:
    public = [getattr(package, name) for name in package.__all__ if name != "__version__"]
    members = [member for each in public for member in (each, *(vars(each).values() if isinstance(each, type) else ()))]
    named = {name for member in members for name in re.findall(r"\b[A-Z]\w+Error\b", inspect.getdoc(member) or "")}
    assert named - {*vmoe_runtime.__all__, *vmoe_export.__all__, *dir(builtins)} == set()


@pytest.mark.parametrize(
    ("public", "values"), [(vmoe_runtime.Setting, ("c0.3-k1", 0.5)), (vmoe_export.ExportOptions, ([0.3],))]
)
def test_fields_that_may_become_more_have_no_positions(public: type, values: tuple[object, ...]) -> None:
    with pytest.raises(TypeError, match="positional argument"):
        public(*values)


def test_the_page_of_the_commands_has_every_command() -> None:
    context = click.Context(program)
    names = [f"vmoe {name}" for name in program.list_commands(context) if name != "serve"]
    serve = program.get_command(context, "serve")
    assert isinstance(serve, click.Group)
    names += [f"vmoe serve {name}" for name in serve.list_commands(context)]
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert [name for name in names if f"<!-- options: {name} -->" not in page] == []


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("MkDocs, Material or mkdocstrings is not installed: pip install '.[docs]'")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    done = sdk_build.run(*command, folder=ROOT, NO_MKDOCS_2_WARNING="1")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    pages = {"commands": "--max-drop-in-accuracy", "python": "calibrated_margin", "cpp": "vmoe_engine_load"}
    for name, word in pages.items():
        assert word in next((tmp_path / "site").glob(f"reference/{name}*")).read_text()
    elsewhere = re.compile(r'(?:src|href)="(https?://[^"]*\.(?:js|css))')
    assert [found for page in (tmp_path / "site").rglob("*.html") for found in elsewhere.findall(page.read_text())] == []

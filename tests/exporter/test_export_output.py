"""What `vmoe-export` prints: text as it is, how near to which limit, what is odd about profiles, and what to type next."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vmoe_export import ExportError, ExportOptions, open_checkpoint
from vmoe_export.cli import main
from vmoe_export.export_plan import ExportPlan, plan_export
from vmoe_export.profile_notes import profile_notes
from vmoe_export.validation.limits import Limits, rounded_limits
from vmoe_export.validation.tensorrt_validation import RoundedComparison, check_rounded
from vmoe_tools.run.cli import main as run_main

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SPARSE, DENSE = GOLDEN / "g1", GOLDEN / "g4"  # 8 experts in blocks 1 and 3; no experts


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


def export(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a run that ends with that code."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    assert stopped.value.code == code
    return capsys.readouterr()


def plan(checkpoint: Path, **options: object) -> ExportPlan:
    with open_checkpoint(checkpoint) as opened:
        return plan_export(opened, ExportOptions(**options))  # type: ignore[arg-type]


# Text of the user


@pytest.mark.parametrize("name", ["a[/b].vmoe", "[bold red]it's :smile: $(x) `y`.vmoe"])
def test_a_path_is_printed_as_it_is_and_the_next_command_runs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = Path(name)
    target.parent.mkdir(exist_ok=True)
    out, err = export(capsys, DENSE, "--no-validate", "--out", name)
    assert err == ""
    last = out.splitlines()[-1]
    found = re.fullmatch(rf"Wrote {re.escape(name)}: (\d+\.\d) MB in \d+\.\d s; next: (.*)", last)
    assert found is not None, last
    size = sum(path.stat().st_size for path in target.iterdir())
    assert float(found[1]) == pytest.approx(size / 1e6, abs=0.051)
    command = shlex.split(found[2])
    assert command == ["vmoe-run", name, "IMAGE"]
    Image.fromarray(np.zeros((28, 28, 3), np.uint8)).save("zero.png")
    assert run_main([*command[1:-1], "zero.png", "--threads", "1"]) == 0


def test_a_name_that_begins_with_a_dash_is_no_option_of_the_next_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, _ = export(capsys, DENSE, "--no-validate", "--output", "features", "--out=-x.vmoe")
    assert out.splitlines()[-1].endswith("; next: vmoe-bench ./-x.vmoe")


def test_a_group_is_no_emoji(mnist_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = export(capsys, mnist_checkpoint, "--group", "tokens:100:", "--dry-run", code=2)
    out, _ = export(capsys, mnist_checkpoint, "--group", "tokens:100", "--dry-run")
    assert "tokens:100: 100 tokens; batches in multiples of 2" in out


def test_a_bundle_that_takes_groups_of_images_is_benchmarked_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = export(capsys, SPARSE, "--no-validate", "--group", "2", "--out", tmp_path / "x.vmoe")
    assert out.splitlines()[-1].endswith(f"; next: vmoe-bench {tmp_path}/x.vmoe")


# JSON


def test_json_stands_alone_on_standard_output_and_beside_the_tables_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = export(capsys, DENSE, "--dry-run", "--json", "-")
    assert json.loads(out)["written"] is False
    assert "Dense ViT" in err and "Dry run: nothing was written" in err
    out, err = export(capsys, DENSE, "--dry-run", "--json", tmp_path / "x.json")
    assert "Dense ViT" in out and err == ""
    assert json.loads((tmp_path / "x.json").read_text())["written"] is False
    assert export(capsys, DENSE, "--dry-run", "-q", "--json", "-")[1] == ""


@pytest.mark.parametrize("arguments", [["--json"], ["--json", "nowhere/x.json"], ["-v", "-q"]])
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out, err = export(capsys, DENSE, *arguments, code=1 if "nowhere/x.json" in arguments else 2)
    assert out == "" and err.startswith("vmoe-export: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


# Limits


def test_validation_says_difference_of_what_on_how_many_images_and_how_near_to_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = export(capsys, SPARSE, "-o", tmp_path / "x.vmoe", "--json", tmp_path / "x.json")
    report = json.loads((tmp_path / "x.json").read_text())
    assert "ONNX Runtime against torch: difference of logits, on 2 random images" in out
    assert "largest (at most 0.0001)" in out and "kept pairs alike (at least 99.5%)" in out
    assert report["limits"] == {"difference": 1e-4, "relative": None, "agreement": 0.995}
    for entry in report["validation"]:
        (line,) = [line for line in out.splitlines() if f"│ {entry['graph']} " in line]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[2:4] == [f"{entry['max_difference']:.1e}", f"{entry['max_difference'] / 1e-4:.0%}"]


def test_graphs_in_a_shorter_type_say_their_limits_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--tensorrt", "--precision", "fp16", "--output", "features", "--json", tmp_path / "x.json")
    out, _ = export(capsys, SPARSE, "-o", tmp_path / "x.vmoe", *options)
    report = json.loads((tmp_path / "x.json").read_text())["tensorrt"]
    assert "against torch, run by ONNX Runtime: difference of features, on 8 random images" in out
    assert "typical, of their size (at most 2%)" in out and "kept pairs alike (at least 95%)" in out
    assert report["limits"] == {"difference": None, "relative": 0.02, "agreement": 0.95}
    (entry,) = report["validation"]
    (line,) = [line for line in out.splitlines() if f"│ {entry['graph']} " in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    relative = entry["relative_difference"]
    assert cells[1:4] == [f"{entry['max_difference']:.1e}", f"{relative:.2%}", f"{relative / 0.02:.0%}"]
    assert (entry["images"], entry["images_alike"]) == (8, 8)


def test_a_distance_from_float32_says_its_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = export(capsys, DENSE, "-o", tmp_path / "x.vmoe", "--precision", "bf16", "--json", tmp_path / "x.json")
    assert "bf16 against fp32: difference of logits, on 8 random images" in out
    assert "typical, of their size (at most 5%)" in out
    assert json.loads((tmp_path / "x.json").read_text())["distance_limit"] == 0.05


GOOD = RoundedComparison("x.tensorrt.onnx", "c1-k1", "onnxruntime", 9.0, 0.01, 0.01, {"encoderblock_1": 0.96}, 8, 1)


@pytest.mark.parametrize(
    ("changed", "atol", "says"),
    [
        ({"agreement": {"encoderblock_1": 0.94}}, None, "routes only 94.00% of the pairs"),
        ({"relative_difference": 0.021}, None, "typically 2.1% off those of the torch model, where fp16 may be off by 2%"),
        ({"relative_difference": float("nan")}, None, "typically nan"),
        ({}, 0.009, "by 1.00e-02, more than --atol 0.009"),
    ],
)
def test_a_rounded_graph_beyond_a_limit_is_refused(changed: dict[str, object], atol: float | None, says: str) -> None:
    check_rounded([GOOD], "fp16", rounded_limits("fp16", None))
    with pytest.raises(ExportError, match=says):
        check_rounded([RoundedComparison(**{**vars(GOOD), **changed})], "fp16", rounded_limits("fp16", atol))


def test_a_graph_whose_routing_agrees_on_no_image_is_still_held_to_a_limit() -> None:
    lost = RoundedComparison("x", "c1-k1", "onnxruntime", 9.0, 0.0, 0.5, {"encoderblock_1": 0.99}, 8, 0)
    with pytest.raises(ExportError, match="typically 50"):
        check_rounded([lost], "fp16", rounded_limits("fp16", None))
    assert rounded_limits("bf16", 0.1) == Limits(0.1, 0.1, 0.85)


# Profiles and pixels


def test_profiles_that_are_the_same_far_off_or_dear_are_named(
    mnist_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ratios = ("-c", 0.3, "-c", 0.31, "-c", 0.05, "-c", 1.05)
    out, _ = export(capsys, mnist_checkpoint, *ratios, "--k", 1, "--k", 2, "--dry-run", "--json", "-", "-q")
    notes = json.loads(out)["notes"]
    assert "c0.3-k1 and c0.31-k1 are the same: each gives an expert 2 places per group" in notes
    assert any("c0.05-k1 is 0.16 with 1 place," in note and "more than 10% off" in note for note in notes)
    assert "c1.05-k1 and c1.05-k2 cost more than the dense ViT of the same size" in notes
    printed, _ = export(capsys, mnist_checkpoint, *ratios, "--k", 1, "--k", 2, "--dry-run")
    for note in notes:
        assert f"Note: {note}" in printed


def test_profiles_as_they_were_asked_for_need_no_note(mnist_checkpoint: Path) -> None:
    assert profile_notes(plan(mnist_checkpoint, capacity=[0.32, 0.5], k=[1], group="16")) == ()
    assert profile_notes(plan(DENSE)) == ()


def test_profiles_of_another_order_are_not_the_same(mnist_checkpoint: Path) -> None:
    assert not [note for note in profile_notes(plan(mnist_checkpoint, capacity=[0.32], k=[1, 2])) if "same:" in note]


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((30, 30), "doesn't see 2 px at the bottom and 2 px on the right; it sees all of 28x28"),
        ((28, 29), "doesn't see 1 px on the right; it sees all of 28x28"),
        ((35, 28), "doesn't see 3 px at the bottom; it sees all of 32x28"),
    ],
)
def test_pixels_that_no_patch_covers_are_named(size: tuple[int, int], says: str, mnist_checkpoint: Path) -> None:
    notes = [note for note in plan(mnist_checkpoint, image_size=size).notes if "patches of 4x4 px" in note]
    assert len(notes) == 1 and says in notes[0]


def test_patches_that_fill_the_image_need_no_note(mnist_checkpoint: Path) -> None:
    assert not [note for note in plan(mnist_checkpoint, image_size=(32, 28)).notes if "px don't fill" in note]


# What can't be printed or written


def test_a_closed_standard_output_is_one_sentence() -> None:
    command = f'exec {shlex.quote(sys.executable)} -c "from vmoe_export.cli import main; main()" {DENSE} --dry-run >&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "vmoe-export: standard output is closed\n")

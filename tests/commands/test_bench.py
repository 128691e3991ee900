"""vmoe-bench: what it measures, how it takes turns, and what it says when it can't."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vmoe_export import export_bundle
from vmoe_measure import image_source
from vmoe_measure.image_source import ImageSource, open_images, synthetic_images
from vmoe_measure.timing import call_order, summarize, time_interleaved
from vmoe_runtime import Engine, ImageError, Routing
from vmoe_runtime.bundle.manifest import InputSpec, Manifest
from vmoe_runtime.bundle.reader import Bundle
from vmoe_runtime.images import to_batch
from vmoe_tools.bench import cli, display, machine, measurement
from vmoe_tools.bench.cascades import timed_batches
from vmoe_tools.bench.quality import count_pairs, count_right

POINT_KEYS = [
    "bundle",
    "precision",
    "profile",
    "capacity_ratio",
    "k",
    "bpr",
    "pool",
    "max_experts",
    "backend",
    "batch_size",
    "threads",
    "images_per_second",
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "kept_pairs",
    "top1",
    "images",
    "flops_per_image",
    "expert_bytes_per_call",
    "pareto",
    "concurrency",
    "streams",
    "then",
    "margin",
    "escalated",
]
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUICK = ("--duration", "0.001", "--threads", "1")
RGB = InputSpec("float32", 32, 48, 3)


def report_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON that a run with --json - prints; nothing else may be on standard output."""
    code = cli.main([*map(str, arguments), *QUICK, "--json", "-"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    report: dict[str, Any] = json.loads(captured.out)
    return report


def complaint_of(capsys: pytest.CaptureFixture[str], code: int, *arguments: object) -> str:
    """What a run that must fail with this code says: one line, and nothing on standard output."""
    assert cli.main([*map(str, arguments)]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vmoe-bench: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def npz(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Writes an npz file: by default 70 labelled digits, so four batches of 16, and six images left over."""

    def write(**changed: np.ndarray | None) -> Path:
        arrays = {"images": mnist_images["images"][:70], "labels": mnist_images["labels"][:70], **changed}
        path = tmp_path / "digits.npz"
        np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
        return path

    return write


@pytest.fixture
def manifest(mnist_bundle: Path) -> Manifest:
    """The manifest of the MNIST bundle, with names for its classes."""
    return dataclasses.replace(Bundle.open(mnist_bundle, verify=False).manifest, class_names=DIGITS)


@pytest.fixture
def named_bundle(tmp_path: Path, mnist_bundle: Path) -> Path:
    """The MNIST bundle with names for its classes."""
    target = tmp_path / "named.vmoe"
    shutil.copytree(mnist_bundle, target)
    raw = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps({**raw, "class_names": DIGITS}))
    return target


@pytest.fixture
def pictures(tmp_path: Path, mnist_images: dict[str, np.ndarray]) -> Path:
    """A folder with 40 digits as PNG files, in one subfolder per class."""
    folder = tmp_path / "pictures"
    for index in range(40):
        subfolder = folder / DIGITS[mnist_images["labels"][index]]
        subfolder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mnist_images["images"][index]).save(subfolder / f"{index}.PNG")
    (folder / "one" / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def dense_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of one block without experts, with random weights."""
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    hidden, heads, wide, classes = 8, 2, 16, 3
    block = "Encoder/encoderblock_0"
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, hidden),
        "embedding/kernel": (4, 4, 3, hidden),
        "embedding/bias": (hidden,),
        "Encoder/posembed_input/pos_embedding": (1, 5, hidden),
        f"{block}/SelfAttention/out/kernel": (heads, hidden // heads, hidden),
        f"{block}/SelfAttention/out/bias": (hidden,),
        f"{block}/Mlp/Dense_0/kernel": (hidden, wide),
        f"{block}/Mlp/Dense_0/bias": (wide,),
        f"{block}/Mlp/Dense_1/kernel": (wide, hidden),
        f"{block}/Mlp/Dense_1/bias": (hidden,),
        "head/kernel": (hidden, classes),
        "head/bias": (classes,),
    }
    for name in ("query", "key", "value"):
        shapes[f"{block}/SelfAttention/{name}/kernel"] = (hidden, heads, hidden // heads)
        shapes[f"{block}/SelfAttention/{name}/bias"] = (heads, hidden // heads)
    for norm in (f"{block}/LayerNorm_0", f"{block}/LayerNorm_1", "Encoder/encoder_norm"):
        shapes |= {f"{norm}/scale": (hidden,), f"{norm}/bias": (hidden,)}
    folder = tmp_path_factory.mktemp("dense")
    save_file(
        {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        folder / "dense.safetensors",
    )
    export_bundle(folder / "dense.safetensors", folder / "dense.vmoe", validate=False)
    return folder / "dense.vmoe"


# Statistics and turns


@pytest.mark.parametrize("count", [1, 2, 3, 100, 101])
def test_percentiles_are_those_of_numpy(count: int) -> None:
    seconds = np.random.default_rng(count).gamma(2.0, 0.01, count)
    speed = summarize(list(seconds), images_per_call=16)
    assert speed.p50_ms == pytest.approx(1000 * np.percentile(seconds, 50), rel=1e-12)
    assert speed.p99_ms == pytest.approx(1000 * np.percentile(seconds, 99), rel=1e-12)
    assert speed.images_per_second == pytest.approx(16 / np.percentile(seconds, 50), rel=1e-12)


def test_percentiles_of_samples_known_by_heart() -> None:
    milliseconds = np.random.default_rng(0).permutation(np.arange(101.0))
    speed = summarize(list(milliseconds / 1000), images_per_call=1)
    assert (speed.p50_ms, speed.p99_ms) == pytest.approx((50, 99))
    assert speed.images_per_second == pytest.approx(20)


def test_one_slow_call_does_not_move_the_throughput() -> None:
    assert summarize([0.1, 0.1, 0.1, 0.1, 60.0], images_per_call=8).images_per_second == pytest.approx(80)


def test_every_round_calls_everyone_once_and_begins_one_further() -> None:
    rounds = [call_order(4, index) for index in range(8)]
    assert all(sorted(order) == [0, 1, 2, 3] for order in rounds)
    assert [order[0] for order in rounds] == [0, 1, 2, 3, 0, 1, 2, 3]


class Stopwatch:
    """Calls that take a known time on a clock of their own, and remember who was called."""

    def __init__(self, *durations: float) -> None:
        self.now = 0.0
        self.log: list[int] = []
        self.calls = [self._call(index, duration) for index, duration in enumerate(durations)]

    def __call__(self) -> float:
        return self.now

    def _call(self, index: int, duration: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(index)
            self.now += duration

        return call


def test_calls_take_turns_from_the_first_to_the_last_round() -> None:
    watch = Stopwatch(1, 2, 4)
    times = time_interleaved(watch.calls, duration=28, clock=watch)
    warm_up, timed = watch.log[:6], watch.log[6:]
    assert warm_up == [0, 1, 2, 1, 2, 0]
    assert timed == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert times == [[1] * 4, [2] * 4, [4] * 4]


def test_a_duration_that_is_too_short_still_gives_three_calls_each() -> None:
    watch = Stopwatch(5, 5)
    assert time_interleaved(watch.calls, duration=1, clock=watch) == [[5] * 3, [5] * 3]
    assert measurement.MINIMUM_ROUNDS == 3


def test_each_round_is_reported_with_its_time() -> None:
    watch = Stopwatch(2, 3)
    rounds: list[float] = []
    time_interleaved(watch.calls, duration=20, clock=watch, after_round=rounds.append)
    assert rounds == [5.0] * 4


# What is reported


def test_json_has_exactly_the_documented_keys(
    mnist_bundle: Path, npz: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(capsys, mnist_bundle, "--profile", "c0.3-k1", "--backend", "onnxruntime", "--images", npz())
    assert list(report) == ["machine", "points"]
    machine_keys = ["cpu", "cores", "os", "python", "numpy", "vmoe_runtime", "backends", "engines", "resident_bytes"]
    assert list(report["machine"]) == machine_keys
    (loaded,) = report["machine"]["engines"]
    assert (loaded["bundle"], loaded["backend"], loaded["precision"]) == (mnist_bundle.name, "onnxruntime", "fp32")
    assert loaded["load_seconds"] > 0
    assert [list(point) for point in report["points"]] == [POINT_KEYS]
    point = report["points"][0]
    assert (point["profile"], point["capacity_ratio"], point["k"], point["bpr"]) == ("c0.3-k1", 0.3, 1, True)
    assert (point["backend"], point["batch_size"], point["threads"]) == ("onnxruntime", 16, 1)
    assert 0 < point["p50_ms"] <= point["p90_ms"] <= point["p99_ms"]
    assert point["images_per_second"] > 0
    assert "ONNX Runtime" in report["machine"]["backends"]["onnxruntime"]


def test_top1_and_kept_pairs_are_those_of_the_engine_over_whole_batches(
    mnist_bundle: Path,
    npz: Callable[..., Path],
    mnist_images: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    profiles = ("c0.1-k2", "c0.5-k2-vanilla")
    report = report_of(capsys, mnist_bundle, "--profile", *profiles, "--batch-size", 16, 32, "--images", npz())
    images, labels = mnist_images["images"][:64], mnist_images["labels"][:64]
    with Engine.load(mnist_bundle) as engine:
        for point in report["points"]:
            answers = engine(images, point["profile"]).argmax(1)
            kept = [route.kept for route in engine.routing(images, point["profile"]).values()]
            assert point["top1"] == np.mean(answers == labels)
            assert point["kept_pairs"] == np.mean(kept)
    assert [point["batch_size"] for point in report["points"]] == [16, 32, 16, 32]
    assert len({point["kept_pairs"] for point in report["points"]}) == 2


def test_kept_pairs_are_counted_over_layers_of_any_size() -> None:
    small = Routing("top-k", None, kept=np.array([[[True, False]]]))
    large = Routing("experts-choice", None, kept=np.array([[[True], [False], [False], [True]]]))
    soft = Routing("soft", None, dispatch=np.ones((1, 4, 2, 1)))
    assert count_pairs([small, large, soft]) == (3, 6)
    assert count_pairs([soft]) == (0, 0)


def test_right_answers_are_counted() -> None:
    logits = np.array([[0.1, 0.9], [2.0, 1.0], [-3.0, -2.0]])
    assert count_right(logits, np.array([1, 1, 1])) == 2


def test_all_stored_profiles_are_measured_with_the_smallest_batch_by_default(
    mnist_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = report_of(capsys, mnist_bundle)["points"]
    stored = [f"c{ratio}-k{k}" for ratio in ("0.1", "0.2", "0.3", "0.5", "1.05", "2") for k in (1, 2)]
    assert sorted(point["profile"] for point in points) == sorted(stored)
    assert {point["batch_size"] for point in points} == {16}
    assert {point["top1"] for point in points} == {None}
    kept = {point["profile"]: point["kept_pairs"] for point in points}
    assert kept["c0.1-k1"] <= 0.1 < kept["c2-k1"] <= 1


def test_options_repeat_and_duplicates_are_measured_once(mnist_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.load(mnist_bundle) as engine:
        fastest = engine.backend
    report = report_of(
        capsys,
        mnist_bundle,
        *("--profile", "c2-k1", "--profile", "c0.1-k1", "c2.0-k1"),
        *("--backend", "auto", fastest, "--backend", "auto"),
        *("--batch-size", "32", "--batch-size", "32"),
    )
    points = [(point["profile"], point["backend"], point["batch_size"]) for point in report["points"]]
    assert points == [("c2-k1", fastest, 32), ("c0.1-k1", fastest, 32)]


def test_backends_are_measured_side_by_side_and_agree(
    mnist_bundle: Path, npz: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(
        capsys,
        mnist_bundle,
        *("--profile", "c0.3-k1", "--backend", "onnxruntime", "openvino", "--images", npz()),
    )
    one, other = report["points"]
    assert (one["backend"], other["backend"]) == ("onnxruntime", "openvino")
    assert one["top1"] == other["top1"]
    assert one["kept_pairs"] == pytest.approx(other["kept_pairs"], abs=0.01)
    assert list(report["machine"]["backends"]) == ["onnxruntime", "openvino"]


def test_each_backend_is_loaded_once_and_closed(
    mnist_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[Engine] = []
    load = Engine.load

    def remember(*arguments: Any, **options: Any) -> Engine:
        loaded.append(load(*arguments, **options))
        return loaded[-1]

    monkeypatch.setattr(Engine, "load", remember)
    report_of(capsys, mnist_bundle, "--profile", "c0.1-k1", "c2-k2", "--batch-size", "16", "32")
    assert len(loaded) == 1
    with pytest.raises(RuntimeError, match="closed"):
        loaded[0](np.zeros((16, 28, 28, 1), np.float32))


def test_a_dense_model_is_one_point_without_routing(dense_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (point,) = report_of(capsys, dense_bundle, "--backend", "onnxruntime")["points"]
    assert [point[key] for key in ("profile", "capacity_ratio", "k", "bpr", "kept_pairs", "top1")] == [None] * 6
    assert (point["batch_size"], point["backend"]) == (1, "onnxruntime")


def test_a_dense_model_has_top1_too(dense_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 8, 8, 3), np.uint8)
    with Engine.load(dense_bundle) as engine:
        answers = engine(images).argmax(1)
    labels = answers.copy()
    labels[0] = (labels[0] + 1) % 3
    np.savez(tmp_path / "images.npz", images=images, labels=labels)
    (point,) = report_of(capsys, dense_bundle, "--images", tmp_path / "images.npz")["points"]
    assert (point["top1"], point["kept_pairs"]) == (0.8, None)


def test_the_table_says_what_the_json_file_says(
    mnist_bundle: Path, npz: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.json"
    arguments = [mnist_bundle, "--profile", "c0.1-k1", "--images", npz(), "--json", target, *QUICK]
    assert cli.main([*map(str, arguments)]) == 0
    captured = capsys.readouterr()
    (point,) = json.loads(target.read_text())["points"]
    (line,) = [line for line in captured.out.splitlines() if "c0.1-k1" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [
        "c0.1-k1",
        f"{point['top1']:.2%} *",
        f"{point['images_per_second']:.1f}",
        f"{point['p50_ms']:.2f}",
        f"{point['p90_ms']:.2f}",
        f"{point['p99_ms']:.2f}",
        f"{point['flops_per_image'] / 1e6:.1f}",
        f"{point['kept_pairs']:.2%}",
        f"{point['expert_bytes_per_call'] / 1e6:.2f}",
    ]
    assert mnist_bundle.name in captured.out
    assert "backend onnxruntime, batch 16" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize(
    ("words", "profiles", "backends"),
    [
        (["--profile", "c0.1-k1", "c2-k2", "BUNDLE"], ["c0.1-k1", "c2-k2"], 1),
        (["--profile", "c0.1-k1", "BUNDLE", "--backend", "onnxruntime"], ["c0.1-k1"], 1),
        (["--backend", "onnxruntime", "openvino", "BUNDLE", "--profile=c2-k2"], ["c2-k2"], 2),
        (["--batch-size", "16", "BUNDLE", "--profile", "c2-k2"], ["c2-k2"], 1),
    ],
)
def test_the_bundle_may_stand_anywhere(
    mnist_bundle: Path, capsys: pytest.CaptureFixture[str], words: list[str], profiles: list[str], backends: int
) -> None:
    points = report_of(capsys, *(mnist_bundle if word == "BUNDLE" else word for word in words))["points"]
    assert list(dict.fromkeys(point["profile"] for point in points)) == profiles
    assert len({point["backend"] for point in points}) == backends


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_goes_to_a_terminal_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with display.Progress(terminal).step("speed [b]", 10.0) as advance:
        for _ in range(2):
            advance(2.5, 40)
            time.sleep(0.06)
    shown = terminal.getvalue()
    assert "speed [b]" in shown and "images/s" in shown
    assert re.search(r"0:00:\d\d", shown)


def test_progress_is_nothing_in_a_pipe_and_when_quiet() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for progress in (display.Progress(pipe), display.Progress(terminal, quiet=True)):
        with progress.step("speed", 1.0) as advance:
            advance(1.0, 1)
    assert (pipe.getvalue(), terminal.getvalue()) == ("", "")


def test_progress_counts_all_images_that_are_assessed(
    mnist_bundle: Path, npz: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: dict[str, tuple[float, list[tuple[float, int]]]] = {}

    class Watched(display.Progress):
        @contextmanager
        def step(self, text: str, total: float) -> Iterator[Callable[[float, int], None]]:
            calls: list[tuple[float, int]] = []
            steps[text] = (total, calls)
            yield lambda amount, images: calls.append((amount, images))

    monkeypatch.setattr(display, "Progress", Watched)
    report_of(capsys, mnist_bundle, "--profile", "c0.1-k1", "c2-k2", "--images", npz())
    total, calls = steps["accuracy and routing"]
    assert total == sum(amount for amount, _ in calls) == 2 * 64
    assert {images for _, images in steps["speed"][1]} == {32}


def test_quiet_prints_nothing(dense_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(dense_bundle), *QUICK, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_name_of_a_bundle_is_printed_as_it_is(
    dense_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "a [bold]:smile:\x1b[2J.vmoe"
    shutil.copytree(dense_bundle, odd)
    assert cli.main([str(odd), *QUICK]) == 0
    assert "a [bold]:smile:\\x1b[2J.vmoe" in capsys.readouterr().out


def test_without_json_only_the_table_is_printed(dense_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(dense_bundle), *QUICK]) == 0
    captured = capsys.readouterr()
    assert "dense" in captured.out
    assert captured.err == ""


def test_the_command_runs_without_torch_onnx_click_and_the_exporter(mnist_bundle: Path) -> None:
    script = (
        "import sys; from vmoe_tools.bench.cli import main; code = main();"
        "print({'torch', 'onnx', 'click', 'vmoe_export'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, mnist_bundle, "--profile", "c0.1-k1", "--json", "-", *QUICK]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.splitlines()[-1] == "set()"
    assert json.loads(ran.stdout)["points"][0]["profile"] == "c0.1-k1"


def test_the_package_runs_as_a_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vmoe_tools.bench", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("vmoe_tools.bench", run_name="__main__")
    assert stopped.value.code == 0
    assert "vmoe-bench BUNDLE... [options]" in capsys.readouterr().out


# The machine


def test_the_cpu_has_the_name_the_kernel_gives_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Abacus 9000 @ 1 Hz\nmodel name\t: other\n")
    assert machine.cpu_model(tmp_path / "cpuinfo") == "Abacus 9000 @ 1 Hz"


def test_a_cpu_without_a_name_has_an_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert machine.cpu_model(tmp_path / "nothing") == "riscv64"


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7}, raising=False)
    assert machine.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert machine.usable_cores() == 12


def test_the_version_of_a_package_that_is_not_installed_is_none() -> None:
    assert machine.installed_version("numpy") == np.__version__
    assert machine.installed_version("vmoe-there-is-no-such-package") is None


# Images


def test_synthetic_images_are_smooth_and_always_the_same() -> None:
    images = synthetic_images(3, RGB).images
    assert isinstance(images, np.ndarray)
    assert (images.shape, images.dtype) == ((3, 32, 48, 3), np.uint8)
    assert np.array_equal(images, synthetic_images(3, RGB).images)
    steps = np.abs(np.diff(images.astype(int), axis=2))
    assert 0 < steps.mean() < images.std() / 2


def test_whole_batches_skip_what_is_left_over() -> None:
    source = ImageSource(np.zeros((7, 32, 48, 3), np.uint8), np.arange(7))
    batches = list(source.whole_batches(3, RGB))
    assert [batch.shape for batch, _ in batches] == [(3, 32, 48, 3)] * 2
    assert [labels.tolist() for _, labels in batches if labels is not None] == [[0, 1, 2], [3, 4, 5]]


def test_subfolders_with_class_names_are_labels(
    named_bundle: Path,
    pictures: Path,
    mnist_images: dict[str, np.ndarray],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Engine.load(named_bundle) as engine:
        source = opened(pictures, engine.manifest)
        # The files are named after their place in the test set.
        chosen = [int(path.stem) for path in source.images[:32]]
        answers = engine(mnist_images["images"][chosen], "c1.05-k2").argmax(1)
    labels = mnist_images["labels"][chosen]
    assert source.labels is not None
    assert source.labels[:32].tolist() == labels.tolist()
    assert len(set(labels[:16])) > 3, "a batch holds one class only"
    (point,) = report_of(capsys, named_bundle, "--profile", "c1.05-k2", "--images", pictures)["points"]
    assert point["top1"] == np.mean(answers == labels)


def test_a_bundle_without_class_names_has_no_top1_on_subfolders(
    mnist_bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [mnist_bundle, "--profile", "c2-k2", "--images", pictures, "--json", "-", *QUICK]
    assert cli.main([*map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["points"][0]["top1"] is None
    assert "vmoe-bench: the bundle has no class names, so there is no top-1\n" in captured.err


def test_a_subfolder_that_is_no_class_leaves_all_without_labels(pictures: Path, manifest: Manifest) -> None:
    (pictures / "nine").rename(pictures / "neuf")
    source = opened(pictures, manifest)
    assert (source.labels, len(source)) == (None, 40)
    assert source.note == "subfolder 'neuf' is not one class of the bundle, so there is no top-1"


def test_a_subfolder_may_have_the_index_of_its_class(pictures: Path, manifest: Manifest) -> None:
    named = opened(pictures, manifest).labels
    assert named is not None
    (pictures / "nine").rename(pictures / "9")
    source = opened(pictures, manifest)
    assert source.labels is not None and sorted(source.labels) == sorted(named)
    assert {path.parent.name for path, label in zip(source.images, source.labels, strict=True) if label == 9} == {"9"}
    (pictures / "9").rename(pictures / "10")
    assert opened(pictures, manifest).note == "subfolder '10' is not one class of the bundle, so there is no top-1"


def test_indices_of_classes_need_no_names(pictures: Path, manifest: Manifest) -> None:
    for index, name in enumerate(DIGITS):
        (pictures / name).rename(pictures / str(index))
    labels = opened(pictures, dataclasses.replace(manifest, class_names=None)).labels
    assert labels is not None and set(labels) == set(range(10))


def test_pictures_in_folders_inside_a_subfolder_are_of_its_class(pictures: Path, manifest: Manifest) -> None:
    deep = pictures / "one" / "images" / "of 2024"
    deep.mkdir(parents=True)
    moved = next((pictures / "one").glob("*.PNG")).rename(deep / "moved.PNG")
    source = opened(pictures, manifest)
    assert source.labels is not None and len(source) == 40
    assert source.labels[source.images.index(moved)] == 1  # type: ignore[union-attr]


def test_hidden_files_and_empty_folders_are_no_pictures(pictures: Path, manifest: Manifest) -> None:
    (pictures / "one" / "._1.png").write_text("what another system notes")
    for hidden in (pictures / ".thumbnails", pictures / "one" / ".thumbnails"):
        hidden.mkdir()
        (hidden / "1.png").write_text("a thumbnail")
    (pictures / "no pictures").mkdir()
    (pictures / "no pictures" / "notes.txt").write_text("notes")
    source = opened(pictures, manifest)
    assert source.labels is not None and len(source) == 40
    assert not any(part.startswith(".") for path in source.images for part in path.relative_to(pictures).parts)


@pytest.mark.parametrize("suffix", ["avif", "JPG", "jpeg", "webp"])
def test_pictures_of_every_format_are_found(suffix: str, tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(b"")
    assert opened(tmp_path, manifest).images == (tmp_path / f"x.{suffix}",)


@pytest.mark.parametrize(("cascade", "times"), [((), 1), (("--cascade",), 3)], ids=["points", "two steps"])
def test_a_picture_is_read_once_for_all_settings(
    cascade: tuple[str, ...],
    times: int,
    mnist_image_bundle: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read: list[Path] = []

    def watched(images: tuple[Path, ...], spec: InputSpec) -> np.ndarray:
        read.extend(images)
        return to_batch(images, spec)

    for index, name in enumerate(DIGITS):
        (pictures / name).rename(pictures / str(index))
    monkeypatch.setattr(image_source, "to_batch", watched)
    swept = "--sweep", "0.1", "0.2", "0.5", "1.05", "--images", pictures
    report = report_of(capsys, mnist_image_bundle, *swept, *cascade)
    assert [point["images"] for point in report["points"]] == [40] * 4
    assert len(read) == 1 + times * 40, "those that are timed, and all for accuracy, and for both again"


def test_batches_that_two_steps_are_timed_on_are_spread_and_few(manifest: Manifest) -> None:
    spec = dataclasses.replace(manifest.input, dtype="uint8", height=1, width=1, channels=1)
    source = ImageSource((np.arange(2000) % 251).astype(np.uint8).reshape(2000, 1, 1, 1))
    first = [int(batch[0, 0, 0, 0]) for batch in timed_batches(source, 1, spec)]
    assert first == [index % 251 for index in range(0, 2000, 32)]
    for size, most in ((8, 64), (16, 32), (100, 8), (2000, 1)):
        batches = timed_batches(source, size, spec)
        assert 0.75 * most <= len(batches) <= most and {len(batch) for batch in batches} == {size}


def test_a_name_that_two_classes_share_is_no_label(pictures: Path, manifest: Manifest) -> None:
    twice = dataclasses.replace(manifest, class_names=(*DIGITS[:8], "one", "nine"))
    assert opened(pictures, twice).labels is None


def test_a_picture_outside_the_subfolders_leaves_all_without_labels(pictures: Path, manifest: Manifest) -> None:
    next((pictures / "nine").glob("*.PNG")).rename(pictures / "stray.PNG")
    source = opened(pictures, manifest)
    assert (source.labels, len(source)) == (None, 40)
    assert source.note == "some pictures are in no subfolder, so there is no top-1"


def test_a_flat_folder_has_no_labels_and_needs_no_note(pictures: Path, manifest: Manifest) -> None:
    source = opened(pictures / "one", manifest)
    assert (source.labels, source.note) == (None, None)
    assert {path.suffix for path in source.images if isinstance(path, Path)} == {".PNG"}


def test_features_have_no_top1(npz: Callable[..., Path], manifest: Manifest) -> None:
    source = opened(npz(), dataclasses.replace(manifest, output="features"))
    assert (source.labels, len(source)) == (None, 70)
    assert source.note == "the bundle outputs no logits, so there is no top-1"


def test_an_npz_without_labels_has_no_top1(
    mnist_bundle: Path, npz: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (point,) = report_of(capsys, mnist_bundle, "--profile", "c2-k2", "--images", npz(labels=None))["points"]
    assert point["top1"] is None
    assert point["kept_pairs"] > 0.9


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": None}, "has no array 'images'"),
        ({"images": np.zeros(3)}, "'images' has shape (3,)"),
        ({"labels": np.zeros(70)}, "'labels' is float64[70], and 70 images need 70 integers"),
        ({"labels": np.zeros(69, int)}, "'labels' is int64[69], and 70 images need 70 integers"),
        ({"labels": np.full(70, 10)}, "labels go from 10 to 10, and the model has classes 0 to 9"),
        ({"labels": np.full(70, -1)}, "labels go from -1 to -1"),
        ({"images": np.zeros((70, 28, 27), np.uint8)}, "images have shape (16, 28, 27)"),
        ({"images": np.zeros((70, 28, 28))}, "images are float64"),
        ({"images": np.zeros((9, 28, 28), np.uint8), "labels": None}, "needs 16 images, and --images has 9"),
        ({"images": np.zeros((0, 28, 28), np.uint8), "labels": np.zeros(0, int)}, "--images has 0"),
        ({"images": np.array([{}] * 16)}, "is not a readable npz file"),
    ],
)
def test_an_npz_that_does_not_fit_is_one_sentence(
    mnist_bundle: Path,
    npz: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, np.ndarray | None],
    says: str,
) -> None:
    assert says in complaint_of(capsys, 1, mnist_bundle, "--images", npz(**changed))


def test_other_files_are_no_npz(tmp_path: Path, npz: Callable[..., Path], manifest: Manifest) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ImageError, match="is not an npz file with an array 'images'"):
        opened(tmp_path / "one.npy", manifest)
    damaged = npz()
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with pytest.raises(ImageError, match="is not a readable npz file"):
        opened(damaged, manifest)
    with pytest.raises(ImageError, match="No such file or directory"):
        opened(tmp_path / "missing.npz", manifest)


def test_a_folder_without_pictures_is_one_sentence(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ImageError, match="has no pictures"):
        opened(tmp_path, manifest)


def test_a_folder_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ImageError, match=r"^/.*: Permission denied$"):
        opened(tmp_path, manifest)


def test_a_picture_that_cannot_be_read_is_named(pictures: Path, manifest: Manifest) -> None:
    (pictures / "one" / "broken.png").write_text("no picture")
    source = opened(pictures, manifest)
    with pytest.raises(ImageError, match=r"broken\.png is not a readable image"):
        source.first_batch(len(source), manifest.input)


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: BUNDLE"),
        (["--duration", "0"], "--duration: must be a positive number of seconds, not '0'"),
        (["--duration", "soon"], "must be a positive number of seconds, not 'soon'"),
        (["--duration", "inf"], "must be a positive number of seconds"),
        (["--duration", "nan"], "must be a positive number of seconds"),
        (["--threads", "0"], "--threads: must be a whole number from 1 to 1024, not '0'"),
        (["--threads", "1025"], "must be a whole number from 1 to 1024"),
        (["--threads", "1_0"], "must be a whole number"),
        (["--threads", "٣"], "must be a whole number"),
        (["--batch-size", "-16"], "--batch-size"),
        (["--batch-size", "9" * 5000], "must be a whole number from 1 to 65536"),
        (["--backend", "abacus"], "--backend: invalid choice: 'abacus'"),
        (["--profile"], "--profile: expected one argument"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in complaint_of(capsys, 2, *([] if not arguments else ["some.vmoe"]), *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--batch-size", "16", "24"], "--batch-size 24 doesn't fit: the bundle routes in groups (16)"),
        (["--batch-size", "1"], "need a multiple of 16 images"),
        (["--profile", "fast"], "--profile: there is no profile 'fast'"),
        (["--profile", "c0.3-k9"], "--profile: k must be between 1 and the number of experts"),
    ],
)
def test_what_the_bundle_cannot_do_is_one_sentence_and_code_2(
    mnist_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in complaint_of(capsys, 2, mnist_bundle, *arguments)


def test_a_dense_model_has_no_profiles(dense_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "dense model" in complaint_of(capsys, 2, dense_bundle, "--profile", "c0.3-k1")


def test_a_missing_bundle_is_one_sentence_and_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in complaint_of(capsys, 1, tmp_path / "no.vmoe")


def test_a_backend_that_is_not_installed_is_one_sentence_and_code_1(
    mnist_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "vmoe_runtime.backends.openvino_cpu", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    complaint = complaint_of(capsys, 1, mnist_bundle, "--backend", "openvino")
    assert "pip install 'vmoe-export[openvino]'" in complaint


def test_rich_missing_is_one_sentence_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "vmoe_tools.bench.display", raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    complaint = complaint_of(capsys, 1, "some.vmoe")
    assert "needs rich" in complaint
    assert "pip install 'vmoe-export[bench]'" in complaint


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "not enough memory"),
        (OSError(5, "Input/output error", "disk"), 1, "disk: Input/output error"),
        (OSError("odd"), 1, "output: odd"),
    ],
)
def test_what_the_system_throws_is_one_sentence(
    *,
    dense_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    says: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "load_engines", fail)
    assert says in complaint_of(capsys, code, dense_bundle)


def test_a_reader_that_has_gone_is_one_sentence(
    dense_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert cli.main([str(dense_bundle), *QUICK, "--json", "-"]) == 1
        monkeypatch.undo()
    assert capsys.readouterr().err.endswith("vmoe-bench: output: Broken pipe\n")


def opened(path: Path, manifest: Manifest) -> ImageSource:
    """The images of a path, as `vmoe-bench` opens them for a bundle."""
    return open_images(path, manifest.class_names, manifest.outputs if manifest.output == "logits" else None)

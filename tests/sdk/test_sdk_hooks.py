"""Tests of the C++ SDK's features for services: warm-up, a log callback, and call cancellation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import sdk_build
from bundle_changes import INLINED
from damaged_files import assert_one_sentence, copied_bundle, edited_graph
from sdk_build import setting_fields
from wheels import OLDEST_ONNXRUNTIME, onnxruntime_folder

from vmoe_export import export_bundle

NONE, DEBUG, INFO, WARNING, ERROR = -1, 0, 1, 2, 3
ORT = "ONNX Runtime: "
NO_OP_LIBRARY = "there is no op library "
Messages = list[tuple[str, str]]


def test_a_warm_engine_answers_as_a_cold_one(
    prefix: Path, runners: Any, mnist_bundle: Path, mnist_images: dict[str, np.ndarray]
) -> None:
    images = mnist_images["images"][:32][..., None]
    runner = runners(prefix, mnist_bundle)
    for setting in ({}, {"profile": "c0.1-k2"}, {"capacity": 0.7, "k": 3, "pool": True}):
        assert runner.ask("warm_up", *setting_fields(**setting), 32) == ["32"]
        warm = runner.logits(images, **setting)
        assert runners(prefix, mnist_bundle).logits(images, **setting).tobytes() == warm.tobytes()


def all_logged(
    prefix: Path, bundle: Path, level: int, library: Path | str | None = None, *, mode: str = "all", **environment: str
) -> tuple[Messages, str]:
    """Run sdk_log, and return its output lines and its text on stderr. A line is a (level or event, message) pair."""
    library = sdk_build.onnxruntime_library() if library is None else library
    done = sdk_build.run(sdk_build.program(prefix, "sdk_log"), bundle, library, mode, str(level), **environment)
    assert done.returncode == 0
    lines = [line.split("\t", 1) for line in done.stdout.splitlines()]
    return [(first, rest) for first, rest in lines], done.stderr


def logged(*arguments: Any, **options: Any) -> Messages:
    """Run sdk_log in the same way as `all_logged`, and assert that stderr is empty.

    The result omits the lines that report a missing op library.
    """
    messages, printed = all_logged(*arguments, **options)
    assert printed == ""
    return [(first, rest) for first, rest in messages if not rest.startswith(NO_OP_LIBRARY)]


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the folder that contains the SDK's library, but leave out the op library, and return the copy.

    Programs use this copy during the test.
    """
    copy = Path(shutil.copytree(sdk_build.prefixes().standard_ops / "lib", tmp_path / "lib"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(copy))
    return copy


@pytest.mark.parametrize("level", [INFO, DEBUG])
def test_a_load_and_a_shared_session_are_logged(level: int, prefix: Path, mnist_bundle: Path) -> None:
    messages = logged(prefix, mnist_bundle, level)
    own = [message for _, message in messages if not message.startswith(ORT)]
    runtime = next(words for words, folder in sdk_build.prefixes().all.items() if folder == prefix)
    loaded = rf"{re.escape(str(mnist_bundle))} was loaded in \d+ ms: profile c0\.1-k1, ONNX Runtime [\d.]+ CPU, {runtime}"
    assert len(own) == 2
    assert re.match(loaded, own[0]) and "shared" not in own[0]
    assert re.match(loaded + r".*, in a session shared with other engines$", own[1])
    levels = {int(found) for found, _ in messages}
    assert levels == ({INFO} if level == INFO else {INFO, DEBUG})
    if level == DEBUG:
        assert any(message.startswith(ORT + "Session Options") for _, message in messages)


@pytest.mark.parametrize("level", [NONE, WARNING, ERROR])
def test_a_load_says_nothing_below_the_level_and_without_a_callback(level: int, prefix: Path, mnist_bundle: Path) -> None:
    assert logged(prefix, mnist_bundle, level) == []


def test_the_oldest_onnxruntime_logs_as_the_newest(prefix: Path, mnist_bundle: Path) -> None:
    library = sdk_build.onnxruntime_library(onnxruntime_folder(OLDEST_ONNXRUNTIME) / "onnxruntime")
    assert [level for level, _ in logged(prefix, mnist_bundle, INFO, library)] == [str(INFO)] * 2
    assert any(message.startswith(ORT) for _, message in logged(prefix, mnist_bundle, DEBUG, library))


@pytest.mark.sample(1)
@pytest.mark.parametrize(("precision", "slow"), [("fp32", "several times"), ("int8", "than in fp32: export it in fp32")])
def test_a_process_without_the_op_library_is_warned_once(
    mnist_checkpoint: Path, tmp_path: Path, libraries: Path, precision: str, slow: str
) -> None:
    bundle = tmp_path / "x.vmoe"
    export_bundle(mnist_checkpoint, bundle, capacity=[0.3], k=[1], precision=precision, validate=False)
    prefix, library = sdk_build.prefixes().standard_ops, libraries / sdk_build.OP_LIBRARY
    (libraries / "missing.txt").unlink(missing_ok=True)
    ((level, message),), _ = all_logged(prefix, bundle, WARNING)
    assert level == str(WARNING)
    assert_one_sentence(message, f"{NO_OP_LIBRARY}{library}", "run cmake --install again", slow)
    (libraries / "missing.txt").write_text(f"libother.so: x\n{library.name}: the headers of Highway (libhwy-dev)\n")
    _, (_, message), _ = all_logged(prefix, bundle, INFO)[0]
    assert "the machine that built it lacked the headers of Highway (libhwy-dev); install" in message


def test_an_op_library_that_cannot_be_loaded_is_a_warning(mnist_bundle: Path, libraries: Path) -> None:
    library = libraries / sdk_build.OP_LIBRARY
    library.write_text("no library")
    ((level, message),) = logged(sdk_build.prefixes().standard_ops, mnist_bundle, WARNING)
    assert level == str(WARNING)
    assert_one_sentence(message, f"the op library {library} can't be loaded: ", "bundles run on standard ops")


@pytest.mark.skipif(not list(Path("/usr/lib").glob("*/libonnx.so.1")), reason="Debian's libonnxruntime is not installed")
def test_an_onnxruntime_that_prints_is_a_warning_that_names_it(mnist_bundle: Path) -> None:
    messages, printed = all_logged(sdk_build.prefixes().standard_ops, mnist_bundle, WARNING, "", VMOE_ONNXRUNTIME="")
    level, message = messages[0]
    assert level == str(WARNING) and printed.startswith("Schema error")
    assert_one_sentence(message, "libonnxruntime.so", "Schema error", "VMOE_ONNXRUNTIME")


def test_a_bundle_that_is_replaced_while_it_is_loaded_is_a_warning(mnist_bundle: Path, tmp_path: Path) -> None:
    bundle, other = (Path(shutil.copytree(mnist_bundle, tmp_path / name)) for name in ("own.vmoe", "other.vmoe"))
    messages = logged(
        sdk_build.prefixes().standard_ops,
        bundle,
        INFO,
        sdk_build.meddling_onnxruntime(),
        MEDDLE_LIBRARY=str(sdk_build.onnxruntime_library()),
        MEDDLE_ONE=str(bundle),
        MEDDLE_OTHER=str(other),
        MEDDLE_TIMES="2",
    )
    assert messages[:2] == [(str(WARNING), f"{bundle} was changed while it was loaded; it is loaded again")] * 2
    assert [level for level, _ in messages[2:]] == [str(INFO)] * 2


def row_that_is_not_there(model: onnx.ModelProto) -> None:
    """Make the model return the millionth row of its output.

    This row does not exist, but only a run can detect that.
    """
    graph = model.graph
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["rows" if name == output else name for name in node.output]
        node.input[:] = ["rows" if name == output else name for name in node.input]
    index = onnx.helper.make_tensor("index", onnx.TensorProto.INT64, [1], [1_000_000])
    graph.node.append(onnx.helper.make_node("Constant", [], ["row"], value=index))
    graph.node.append(onnx.helper.make_node("Gather", ["rows", "row"], [output], name="missing_row"))


def test_a_session_logs_its_runs_at_the_level_of_their_time(mnist_bundle: Path, tmp_path: Path) -> None:
    data = edited_graph(mnist_bundle, row_that_is_not_there)
    bundle = copied_bundle(mnist_bundle, tmp_path / "x.vmoe", files={INLINED: data})
    messages = logged(sdk_build.prefixes().standard_ops, bundle, ERROR, mode="runs")
    assert [first for first, _ in messages] == ["run", "failed", "run", str(ERROR), "failed", "run", "failed"]
    assert_one_sentence(messages[3][1], ORT, "missing_row")


def test_nan_in_images_is_a_warning_once(mnist_bundle: Path) -> None:
    messages = logged(sdk_build.prefixes().whole, mnist_bundle, WARNING, mode="nan")
    assert messages == [(str(WARNING), "the images have NaN pixels, which make NaN of the answers")]


def test_a_callback_may_call_the_library_replace_itself_and_throw(prefix: Path, mnist_bundle: Path) -> None:
    first, info, refusal, *later = logged(prefix, mnist_bundle, INFO, mode="calls")
    assert first[0] == str(INFO) and "was loaded" in first[1]
    assert info == ("info", "0")
    assert refusal == ("failed", "a log callback can't load a bundle: a load may be waiting for it")
    # the second load logs to the callback that was set by the first load
    assert [level for level, _ in later] == [str(INFO)]


@pytest.mark.sample(1)
def test_calls_are_cancelled_before_during_and_after_and_no_other_call_changes(prefix: Path, mnist_bundle: Path) -> None:
    program = sdk_build.program(prefix, "cancel_threads")
    done = sdk_build.run(program, mnist_bundle, sdk_build.onnxruntime_library(), "200")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    numbers = re.fullmatch(r"cancelled (\d+) done (\d+) equal (\d+) of \3\n", done.stdout)
    assert numbers, done.stdout
    # Hardly any calls would be cancelled if cancellation were only checked before a call begins.
    assert int(numbers[1]) > 20 and int(numbers[3]) > 20

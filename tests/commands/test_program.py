"""Tests for the program `vmoe`.

They check its commands, one-line errors, signals, and that each output file is either complete or absent.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import sdk_build
from command_runs import QUICK, Vmoe, kept_bundle
from damaged_files import copied_bundle, put
from terminal import ended_by

from vmoe_runtime import VmoeError
from vmoe_tools.inspect.display import print_summary
from vmoe_tools.output import FolderKind, check_output_file, people_stream, write_json
from vmoe_tools.program import main, printable, program
from vmoe_tools.terminal import print_section, table_of

VMOE = Path(sys.executable).with_name("vmoe")
COMMANDS = ["export", "zeroshot", "prune", "run", "bench", "inspect", "fewshot", "report", "page", "serve", "build"]
SEVEN = Path(__file__).parents[2] / "samples" / "mnist" / "seven.png"


def test_help_lists_the_commands_and_imports_none_of_them() -> None:
    script = "import sys; from vmoe_tools.program import main; main(['--help']); print('numpy' in sys.modules)"
    lines = sdk_build.built(sys.executable, "-c", script).splitlines()
    assert [line.split()[0] for line in lines[lines.index("Commands:") + 1 : -1]] == COMMANDS
    assert lines[-1] == "False"


def test_without_a_command_there_is_help_and_a_slip_gets_a_hint(vmoe: Vmoe) -> None:
    assert "Commands:" in vmoe.run(code=2)[1]
    complaint = vmoe.complaint(2, "bench", "x.vmoe", "--profle", "c1-k1")
    assert "Did you mean" in complaint and "--profile" in complaint
    complaint = vmoe.complaint(2, "run", "x.vmoe", "--capcity", "1")
    assert complaint.endswith("Did you mean '--capacity'? vmoe run --help explains the options\n")
    assert "the JSON" in vmoe.run("run", "--help")[0]
    assert "the JSON" not in vmoe.run("serve", "ray", "--help")[0] + vmoe.run("serve", "triton", "--help")[0]


def test_names_of_commands_and_options_are_completed() -> None:
    def completed(*words: str) -> list[str]:
        asked = {"_VMOE_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["vmoe", *words]), "COMP_CWORD": str(len(words))}
        return [line.partition(",")[2] for line in sdk_build.run(VMOE, **asked).stdout.splitlines()]

    assert completed("b") == ["bench", "build"]
    assert completed("run", "--thr") == ["--threads"]
    assert "_vmoe_completion" in sdk_build.run(VMOE, _VMOE_COMPLETE="bash_source").stdout


def test_the_version_is_that_of_the_package(vmoe: Vmoe) -> None:
    from vmoe_runtime import __version__

    assert vmoe.run("--version")[0] == f"vmoe, version {__version__}\n"
    assert vmoe.run("export", "--version")[0] == f"vmoe, version {__version__}\n"


def leaves(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command. The subcommands of `vmoe serve` are included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield from leaves(command, *words, name) if isinstance(command, click.Group) else [(*words, name)]


@pytest.mark.parametrize("words", [*leaves(program)], ids=" ".join)
def test_every_command_explains_itself_and_its_options(words: tuple[str, ...], vmoe: Vmoe) -> None:
    usage, _, rest = vmoe.run(*words, "--help")[0].partition("\n\n")
    text, _, options = rest.partition("Options:\n")
    assert re.fullmatch(rf"Usage: vmoe {' '.join(words)} \[OPTIONS\]( \[?[A-Z|_]+\]?(\.\.\.)?)+", usage) and text.strip()
    for option in re.split(r"\n(?=  -)", options):
        assert re.search(r"\S(  +|\n +)\S", option), option  # name and description of an option


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    for module in ("vmoe_tools.bench.command", "vmoe_tools.bench.display", "vmoe_tools.terminal"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    complaint = vmoe.complaint(1, "bench", "some.vmoe")
    assert "pip install 'vmoe-export[bench]'" in complaint and "rich" in complaint


@pytest.mark.parametrize("command", ["export", "zeroshot", "prune"])
def test_what_writes_bundles_says_that_windows_lacks_locks(command: str) -> None:
    script = "import sys; sys.modules['fcntl'] = None; from vmoe_tools.program import main; main([sys.argv[1]])"
    said = sdk_build.run(sys.executable, "-c", script, command).stderr
    assert said == f"vmoe: vmoe {command} needs file locks, which only Linux and macOS have\n"


@pytest.mark.parametrize("package", ["numpy", "PIL"])
def test_a_package_that_lacks_a_system_library_is_not_said_to_be_missing(
    package: str, mnist_image_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('libgone.so.5: cannot open shared object file')")
    paths = os.pathsep.join((str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])))
    done = sdk_build.run(sys.executable, "-m", "vmoe_tools", "run", mnist_image_bundle, SEVEN, PYTHONPATH=paths)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "libgone.so.5: cannot open" in done.stderr and "need pillow: pip" not in done.stderr


# Errors


@pytest.mark.parametrize(
    ("error", "code", "complaint"),
    [
        (VmoeError("the\nbundle is odd"), 1, "the bundle is odd"),
        (click.UsageError("wrong"), 2, "wrong; vmoe inspect --help explains the options"),
        (click.ClickException("can't"), 1, "can't"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "there is not enough memory; a smaller batch size or image size takes less"),
        (OSError(5, "Input/output error", "disk"), 1, "disk: Input/output error"),
    ],
    ids=repr,
)
def test_an_error_is_one_line(
    error: BaseException, code: int, complaint: str, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("vmoe_tools.inspect.command.Bundle.open_once", fail)
    assert vmoe.complaint(code, "inspect", "x.vmoe") == f"vmoe: {complaint}\n"
    _, err = vmoe.run("inspect", "x.vmoe", "-v", code=code)
    assert ("Traceback" in err) == (code != 2) and err.endswith(f"vmoe: {complaint}\n")


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmoe_tools.inspect.command.Bundle.open_once", lambda *_, **__: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x.vmoe"])


@pytest.mark.parametrize("words", [["bench"], ["run", "x.png"], ["inspect"], ["report", "--images", "x", "-o", "x.html"]])
def test_names_do_not_steer_the_terminal(words: list[str], tmp_path: Path, vmoe: Vmoe) -> None:
    command, *more = words
    complaint = vmoe.complaint(1, command, tmp_path / "a\x1b[31mb\nc", *more)
    assert r"a\x1b[31mb c" in complaint
    assert printable("a cat\x9b2J\u202e \udcff") == r"a cat\x9b2J\u202e \udcff"


def test_text_that_an_encoding_lacks_is_escaped(mnist_image_bundle: Path, tmp_path: Path) -> None:
    bundle = copied_bundle(mnist_image_bundle, tmp_path / "n.vmoe", put("class_names", ["né", *"12345678", "九"]))
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([VMOE, "run", bundle, SEVEN, "--top", "10"], env=environment, capture_output=True, check=True)
    assert done.stderr == b"" and "  né\n".encode("latin-1") in done.stdout and b"  \\u4e5d\n" in done.stdout


def test_complaints_stand_behind_what_was_printed_before(mnist_image_bundle: Path) -> None:
    command = [VMOE, "run", mnist_image_bundle, SEVEN, "absent.png", "--top", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    header, answer, complaint = done.stdout.splitlines()
    assert " on " in header and str(SEVEN) in answer and "absent.png" in complaint


def test_a_closed_standard_output_and_a_reader_that_goes_are_one_line() -> None:
    for shell, complaint in ((">&-", "standard output is closed"), ("--list-tensors | true", "output: Broken pipe")):
        command = f"{VMOE} inspect {kept_bundle('fp32')} {shell}"
        assert sdk_build.run("sh", "-c", command).stderr == f"vmoe: {complaint}\n"


# Signals


@pytest.mark.sample(2)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0.5, 2.5])
def test_a_signal_ends_a_report_and_leaves_nothing(
    number: signal.Signals, code: int, seconds: float, mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path
) -> None:
    words = ["report", mnist_image_bundle, "--images", mnist_digits, "--duration", 60, "-o", tmp_path / "r.html"]
    found, complaint = ended_by(number, [VMOE, *words], seconds)
    # If the signal arrives while Python starts or creates a class, it ends Python directly. There is no exit code in that
    # case.
    assert found in (code, -number)
    assert "Traceback" not in complaint and list(tmp_path.iterdir()) == []
    name = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert complaint.endswith(f"vmoe: {name}\n") or found == -number


@pytest.mark.slow
def test_a_signal_ends_a_measurement_which_shows_what_there_is(
    mnist_image_bundle: Path, mnist_digits: Path, tmp_path: Path
) -> None:
    target = tmp_path / "report.json"
    words = ["bench", mnist_image_bundle, "--sweep", "0.1:2.0", "--images", mnist_digits, "--duration", 60, "--json", target]
    for seconds in (6, 12, 24, 48):  # retry with more time, because a busy machine may not have measured anything yet
        found, complaint = ended_by(signal.SIGINT, [VMOE, *words], seconds)
        assert (found, "Traceback" in complaint) == (130, False)
        if target.exists():
            break
    report = json.loads(target.read_text())
    assert report["interrupted"] is True and report["points"]
    assert "the results so far are shown, and no setting is recommended" in complaint
    images = [point["images"] for point in report["points"]]
    assert min(images) > 0 and max(images) - min(images) <= 1, "points ran on other images than their neighbours"


# Files


def test_a_file_is_replaced_whole_and_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "link.json").symlink_to("old.json")
    write_json(tmp_path / "link.json", {"a": float("nan"), "b": (1, "\udcff")})
    assert json.loads((tmp_path / "old.json").read_text()) == {"a": None, "b": [1, "\udcff"]}
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "old.json"]


def test_a_file_that_can_not_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.json").write_text("old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(click.ClickException, match=r"report\.json can't be written: No space left on device"):
        write_json(str(tmp_path / "report.json"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_folder_that_can_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(VmoeError, match=r"site can't be written: No space left on device"):
        FolderKind("page", "vmoe page", "page.json", "x").write(tmp_path / "site", {"a.js": b""}, force=False)
    assert not any(tmp_path.iterdir())


def test_a_target_that_can_not_be_or_is_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, image = tmp_path / "x.vmoe", tmp_path / "x.png"
    bundle.mkdir()
    for file in (bundle / "manifest.json", image):
        file.write_text("{}")
    (tmp_path / "link.png").symlink_to(image)
    for target in (bundle / "manifest.json", bundle / "new.json", image, tmp_path / "link.png"):
        with pytest.raises(click.UsageError, match=r"(is used by this command|x\.vmoe is a bundle); choose another file"):
            check_output_file(target, [None, bundle, image])
    # targets inside a bundle are refused even if the bundle is not an input of the command
    for target in (bundle / "manifest.json", bundle / "new.json"):
        with pytest.raises(click.UsageError, match="is a bundle"):
            check_output_file(target)
    with pytest.raises(click.UsageError, match="there is no folder"):
        check_output_file(tmp_path / "nowhere" / "report.json")
    with pytest.raises(click.UsageError, match="not a regular file"):
        check_output_file(tmp_path)
    for good in (tmp_path / "new.json", "-", None):
        check_output_file(good, [tmp_path, bundle, image])
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(click.UsageError, match="is read-only"):
        check_output_file(tmp_path / "new.json")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "kept", "said"), [(40, 2, "for four, five six;"), (60, 3, "for four;"), (80, 4, "")])
def test_a_terminal_without_room_loses_the_least_columns(
    columns: int, kept: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = Terminal()
    shown = dict.fromkeys(("name", "two", "five\nsix", "four"), lambda item: item * 14)
    print_section(terminal, "Table", table_of("ab", shown, ("name",)), spare=("absent", "four", "five\nsix"))
    text = " ".join(terminal.getvalue().split())
    assert " ".join(["a" * 14] * kept + ["b" * 14] * kept) in text
    assert said in text and ("no room" in text) == bool(said)


@pytest.mark.parametrize("columns", [38, 80])
def test_a_summary_says_what_profiles_cost(columns: int, monkeypatch: pytest.MonkeyPatch, vmoe: Vmoe) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal, summary = Terminal(), vmoe.json("inspect", kept_bundle("fp32"))
    print_summary(summary, terminal)
    table = click.unstyle(terminal.getvalue()).partition("Profiles, the first is the default\n")[2].partition("Files\n")[0]
    (first,) = (line.split() for line in table.splitlines() if line.split()[:1] == [summary["profiles"][0]["name"]])
    assert first[-1] == f"{summary['profiles'][0]['of_dense']:.0%}" and "no room for max experts" in table


def test_standard_output_is_for_the_json_alone(vmoe: Vmoe) -> None:
    assert (people_stream("-"), people_stream("x.json"), people_stream(None)) == (sys.stderr, sys.stdout, sys.stdout)
    words = ("bench", kept_bundle("fp32"), "--profile", "c0.3-k1", *QUICK)
    out, err = vmoe.run(*words, "--json", "-")
    assert json.loads(out)["points"][0]["profile"] == "c0.3-k1" and "c0.3-k1" in err
    assert vmoe.run(*words, "-q") == ("", "")

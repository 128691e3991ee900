"""What the commands agree on: where words may stand, --version, --json, and one sentence for what goes wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vmoe_runtime
from vmoe_runtime import VmoeError, version
from vmoe_runtime.__main__ import main as runtime_main
from vmoe_tools.command_line import (
    CommandError,
    Parser,
    UsageError,
    check_output_file,
    people_stream,
    printable,
    run_command,
    whole_number,
    write_json,
)

pytestmark = pytest.mark.fast

BUNDLE = Path(__file__).parents[1] / "data" / "bundles" / "v3-plain"
TOOLS = ("vmoe-export", "vmoe-bench", "vmoe-build", "vmoe-run", "vmoe-inspect")


def parser() -> Parser:
    parser = Parser("some-tool", "BUNDLE FILE...", "Does something.")
    parser.add_argument("bundle")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--top", type=whole_number(9))
    parser.add_several("--level", str.isdecimal)
    parser.add_volume("less")
    return parser


@pytest.mark.parametrize(
    ("words", "levels", "files"),
    [
        ("B --level 1 2", ["1", "2"], []),
        ("--level 1 2 B", ["1", "2"], []),
        ("--level 1 B x --level=2 3 y", ["1", "2", "3"], ["x", "y"]),
        ("B x --top 3 y", [], ["x", "y"]),
        ("--top 3 B x", [], ["x"]),
        ("--level 1 B 2", ["1"], ["2"]),
        ("--level odd 1 B", ["odd", "1"], []),
        ("--level 1 -q B x", ["1"], ["x"]),
        ("--level 1 -- B -x 2", ["1"], ["./-x", "2"]),
        ("B -", [], ["-"]),
    ],
)
def test_positional_arguments_stand_anywhere(words: str, levels: list[str], files: list[str]) -> None:
    parsed = parser().read(words.split())
    assert (parsed.bundle, parsed.level, parsed.files) == ("B", levels, files)


@pytest.mark.parametrize("words", ["", "B --level", "B --lev 1", "B --top 0", "B --top 1_0", "B -v -q", "B --fast"])
def test_a_wrong_command_line_is_a_usage_error(words: str) -> None:
    with pytest.raises(UsageError, match=r"the usage is some-tool BUNDLE FILE\.\.\. \[options\], and some-tool --help"):
        parser().read(words.split())


def test_every_tool_says_its_version() -> None:
    assert vmoe_runtime.__version__[0].isdigit()
    for tool in TOOLS:
        module = [sys.executable, "-m", tool.replace("-", "_")]
        for command in ([Path(sys.executable).with_name(tool)], module):
            done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
            assert done.stdout == f"{tool}, version {vmoe_runtime.__version__}\n"


def test_the_runtime_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        runtime_main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"vmoe_runtime, version {vmoe_runtime.__version__}\n"


def test_a_distribution_that_is_not_installed_has_no_version() -> None:
    assert version.installed_version("vmoe-export") == vmoe_runtime.__version__
    assert version.installed_version("vmoe-there-is-no-such-package") is None


def test_what_steers_a_terminal_is_printed_as_text() -> None:
    assert printable("tench, Tinca \N{SNOWMAN}") == "tench, Tinca \N{SNOWMAN}"
    assert printable("a\nb\x1b]0;title\x07\udcff\u202e") == r"a\nb\x1b]0;title\x07\udcff\u202e"


# What goes wrong


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UsageError("no"), 2, "tool: no\n"),
        (CommandError("never"), 1, "tool: never\n"),
        (VmoeError("two\nlines \x1b[2J"), 1, "tool: two lines \\x1b[2J\n"),
        (OSError(5, "Input/output error", "disk"), 1, "tool: disk: Input/output error\n"),
        (OSError("odd"), 1, "tool: output: odd\n"),
        (MemoryError(), 1, "tool: buy more\n"),
        (KeyboardInterrupt(), 130, "tool: interrupted\n"),
    ],
)
def test_what_is_thrown_is_one_sentence(
    error: BaseException, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: object) -> None:
        raise error

    assert run_command("tool", fail, ["x"], no_memory="buy more") == code
    assert capsys.readouterr() == ("", says)
    assert run_command("tool", fail, ["x", "-v"], no_memory="buy more") == code
    assert ("Traceback" in capsys.readouterr().err) == (code != 2)


def test_a_defect_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("tool", lambda words: 1 // 0, [])


@pytest.mark.parametrize("tool", ["vmoe_tools.bench", "vmoe_tools.build", "vmoe_tools.run", "vmoe_tools.inspect"])
def test_a_closed_standard_output_is_one_sentence(tool: str, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m {tool} {tmp_path}/no.vmoe image.png >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{tool.replace('_', '-')}: standard output is closed\n")


def test_files_that_are_opened_never_get_the_number_of_a_closed_standard_file(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom vmoe_tools.command_line import run_command\n"
        f"def run(words):\n  with open({str(tmp_path / 'x')!r}, 'w') as f:\n    print(f.fileno())\n"
        "    print('to nobody', file=sys.stderr)\n    os.write(2, b'a library')\n"
        "run_command('tool', run, [])"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, program]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) > 2
    assert (tmp_path / "x").read_bytes() == b""


# JSON


def test_a_report_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "link.json").symlink_to("old.json")
    write_json(str(tmp_path / "link.json"), {"a": 1})
    assert (tmp_path / "old.json").read_text() == '{\n "a": 1\n}\n'
    assert (tmp_path / "link.json").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "old.json"]


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "report.json").write_text("old")
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CommandError, match=r"report\.json can't be written: No space left on device"):
        write_json(str(tmp_path / "report.json"), {})
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_a_target_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="there is no folder"):
        check_output_file(str(tmp_path / "nowhere" / "report.json"))
    with pytest.raises(CommandError, match="no plain file"):
        check_output_file(str(tmp_path))
    for target in (str(tmp_path / "new.json"), "-", None):
        check_output_file(target)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_the_command_uses_is_refused(tmp_path: Path) -> None:
    bundle, image = tmp_path / "x.vmoe", tmp_path / "x.png"
    bundle.mkdir()
    for file in (bundle / "manifest.json", image):
        file.write_text("{}")
    (tmp_path / "link.png").symlink_to(image)
    for target in (bundle / "manifest.json", bundle / "new.json", image, tmp_path / "link.png"):
        with pytest.raises(CommandError, match="is used by this command; choose another file"):
            check_output_file(str(target), [None, bundle, image])
    # Folders of pictures and of checkpoints may well be where one is.
    check_output_file(str(tmp_path / "new.json"), [tmp_path, bundle, image])


@pytest.mark.parametrize("tool", ["vmoe-export", "vmoe-run", "vmoe-bench", "vmoe-build", "vmoe-inspect"])
def test_no_report_is_written_over_a_bundle(tool: str, tmp_path: Path) -> None:
    bundle = tmp_path / "x.vmoe"
    shutil.copytree(BUNDLE, bundle)
    words = {"vmoe-export": ["-o", tmp_path / "y.vmoe"], "vmoe-run": ["x.png"]}.get(tool, [])
    command = [Path(sys.executable).with_name(tool), bundle, *words, "--json", bundle / "manifest.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.endswith("x.vmoe is used by this command; choose another file for --json\n")
    assert (bundle / "manifest.json").read_bytes() == (BUNDLE / "manifest.json").read_bytes()


def test_links_that_lead_in_a_circle_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.json").symlink_to(tmp_path / "a.json")
    check_output_file(str(tmp_path / "a.json"), [tmp_path / "a.json" / "b"])
    write_json(str(tmp_path / "a.json"), {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 1\n}\n'


def test_standard_output_is_for_the_json_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert (people_stream("-"), people_stream("x.json"), people_stream(None)) == (sys.stderr, sys.stdout, sys.stdout)
    write_json("-", {"a": "\udcff"})
    write_json(None, {"b": 2})
    assert capsys.readouterr().out == '{\n "a": "\\udcff"\n}\n'

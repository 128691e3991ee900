"""The declarations of a public C or C++ header as Markdown, with their comments as text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

HEADERS = Path(__file__).parents[2] / "plugins" / "include"

_SECTION = re.compile(r"/\* ---- (.*) ---- \*/")
_NAMES = (
    re.compile(r"} (\w+);$", re.MULTILINE),  # typedef struct x { ... } x;
    re.compile(r"^#define (\w+)"),
    re.compile(r"^typedef struct (\w+) \w+;$"),
    re.compile(r"^typedef void \(\*(\w+)\)"),
    re.compile(r"^(?:struct|class)(?: \[\[\w+\]\])? (\w+)", re.MULTILINE),
    re.compile(r"^using (\w+)", re.MULTILINE),
    re.compile(r"^enum \{ (\w+)"),
    re.compile(r"(\w+)\("),
)
_PARAMETER = re.compile(r"^(\w+(?:, \w+)*): ")
_BODY = re.compile(r"\s*\{.*\}$")


def header_markdown(name: str) -> str:
    """The declarations of a header.

    Args:
        name: such as "vmoe/engine.h".
    """
    text = (HEADERS / name).read_text(encoding="utf-8")
    parts = _c_blocks(text) if name.endswith(".h") else _cpp_blocks(text)
    language = "c" if name.endswith(".h") else "cpp"
    return "\n".join(line for part in parts for line in _part(part, language))


def _part(part: str, language: str) -> Iterator[str]:
    if section := _SECTION.fullmatch(part):
        yield from (f"### {section[1]}", "")
        return
    comment, code = _split_comment(part)
    if code:  # the headers for C have sections above
        yield from (f"{'####' if language == 'c' else '###'} {_name(code)}", "")
    yield from _prose(comment, set(re.findall(r"\w+", code)))
    if code:
        yield from (f"```{language}", code, "```", "")


def _name(code: str) -> str:
    for pattern in _NAMES:
        if found := pattern.search(code):
            return found[1]
    raise ValueError(f"no name in {code}")


def _split_comment(part: str) -> tuple[list[str], str]:
    """The lines of the leading comment without its marks, and the declaration behind it."""
    if part.startswith("/*"):
        comment, _, code = part.partition("*/")
        lines = comment.removeprefix("/*").splitlines()
        return [re.sub(r"^ \*|^   (?=\w)", "", line).strip() for line in lines], code.strip("\n")
    lines = part.splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("//")), len(lines))
    return [line.removeprefix("//").removeprefix(" ") for line in lines[:count]], "\n".join(lines[count:])


def _prose(lines: list[str], words: set[str]) -> Iterator[str]:
    """A comment as paragraphs; its parameters, "name: text", as a list, and what is indented as code.

    Args:
        lines: of the comment.
        words: of the declaration, among which the parameters are.
    """
    in_code = in_list = False
    for line in lines:
        code = line.startswith("  ") and not in_list
        if code != in_code:
            yield from ("```cpp",) if code else ("```", "")
            in_code = code
        if code:
            yield line.removeprefix("  ")
            continue
        text = _escaped(line.strip())
        parameter = _PARAMETER.match(line)
        if parameter and words >= set(parameter[1].split(", ")):
            yield from () if in_list else ("",)
            in_list = True
            yield f"- `{parameter[1]}`: {text[text.index(': ') + 2 :]}"
        else:
            in_list = in_list and bool(text)
            yield f"  {text}" if in_list else text
    if in_code:
        yield "```"
    yield ""


def _escaped(text: str) -> str:
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def _c_blocks(text: str) -> Iterator[str]:
    """Blocks that blank lines separate, without what only the compiler needs."""
    opening, _, rest = text.partition("#ifndef VMOE_")
    yield opening.strip()
    for block in re.split(r"\n\s*\n", rest)[1:]:
        lines = [line for line in block.splitlines() if "NOLINT" not in line]
        if lines and not re.match(r'#(?!define VMOE_\w+_INIT)|}|extern "C"', lines[0]):
            yield "\n".join(lines)


def _cpp_blocks(text: str) -> Iterator[str]:
    """The introduction, and each declaration of the namespace vmoe without bodies and private parts."""
    opening, _, rest = text.partition("#ifndef VMOE_")
    yield opening.strip()
    inside = rest[rest.index("namespace vmoe {\n") + len("namespace vmoe {\n") : rest.rindex("}  // namespace vmoe")]
    inside = re.sub(r"namespace internal \{.*?\n\}  // namespace internal\n", "", inside, flags=re.DOTALL)
    block: list[str] = []
    for line in [*_without_bodies(_without_private(inside.splitlines())), ""]:
        if line or _depth(block):
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []


def _depth(lines: list[str]) -> int:
    code = "".join(line.partition("//")[0] for line in lines)
    return code.count("{") - code.count("}")


def _without_private(lines: list[str]) -> Iterator[str]:
    private = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        private = (private or line == " private:") and line != "};"
        if not private and not (line == "" and following == " private:"):
            yield line


def _without_bodies(lines: Iterator[str]) -> Iterator[str]:
    """Functions as declarations; their signatures may have several lines, and so may their bodies."""
    end: str | None = None  # the line that ends the body that is being left out
    signature: list[str] = []
    for line in lines:
        if end is not None:
            end = None if line == end else end
            continue
        code = line.strip()
        if code.startswith("//") or (not signature and (not code or "(" not in code.partition("//")[0])):
            yield line
            continue
        signature.append(line)
        if not code.endswith(("{", "}", ";")) and "// " not in code:
            continue
        whole = "\n".join(signature)
        if code.endswith("{"):
            indent = signature[0][: len(signature[0]) - len(signature[0].lstrip())]
            end = f"{indent}}}"
            whole = whole.removesuffix("{").rstrip() + ";"
        elif code.endswith("}"):
            whole = re.sub(r"\) : .*", ")", _BODY.sub("", whole)) + ";"
        yield from whole.split("\n")
        signature = []

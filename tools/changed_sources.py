"""Print those C++ sources in a build that are affected by changes since a git revision.

A source is affected if it differs from the revision, or if it includes a header that differs.

Usage: python tools/changed_sources.py BUILD [REVISION]

BUILD is a folder that ninja has built. REVISION is HEAD by default. If git doesn't find the revision, HEAD is used.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def output(*command: str | Path) -> str:
    """Return a command's standard output. If the command fails, return an empty string."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def changed_files(revision: str) -> set[Path]:
    """Return the files that differ between the revision and the working tree, including untracked files."""
    base = output("git", "merge-base", "HEAD", revision).strip() or "HEAD"
    names = output("git", "diff", "--name-only", base) + output("git", "ls-files", "--others", "--exclude-standard")
    return {ROOT / name for name in names.splitlines()}


def dependencies(build: Path) -> Iterator[set[Path]]:
    """For each object file in a build, yield the set of source files and headers from which it was compiled."""
    for listed in output(Path(sys.executable).with_name("ninja"), "-C", build, "-t", "deps").split("\n\n"):
        yield {(build / line.strip()).resolve() for line in listed.splitlines()[1:]}


if __name__ == "__main__":
    build, revision = Path(sys.argv[1]).resolve(), [*sys.argv[2:], "HEAD"][0]
    changed = changed_files(revision)
    affected = {path for files in dependencies(build) if files & changed for path in files if path.suffix == ".cc"}
    print(*sorted(path.relative_to(ROOT) for path in affected if path.is_relative_to(ROOT)), sep="\n")

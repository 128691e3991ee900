"""Build a release from this source tree into a new folder.

The release consists of the source archive, the wheels, the C++ SDK, the documentation, the SBOM and the checksums.

    make release

The same commit gives the same bytes, whichever folder the release is built in. The build needs

- Debian, and everything that tools/build_wheels.py needs,
- the documentation site in build/site, which `make release` builds,
- SOURCE_DATE_EPOCH, the modification time for every file, which `make release` sets.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import build_wheels
from build_wheels import ROOT, BuildError, run
from sbom import write_sbom
from sdk_packages import write_archive, write_sdk

SITE = ROOT / "build" / "site"


def main(argv: Sequence[str] | None = None) -> int:
    """Build a release, and print one line for each file. Return 0 if the build succeeds.

    If it fails, print an error on stderr and return 1.
    """
    parser = argparse.ArgumentParser(description="Build a release reproducibly.")
    parser.add_argument("out", type=Path, help="folder to create for the release's files")
    out = parser.parse_args(argv).out.resolve()
    try:
        build(out)
    except (BuildError, FileExistsError) as error:
        print(f"build_release: {error}", file=sys.stderr)
        return 1
    return 0


def build(out: Path) -> None:
    """Write all files of a release."""
    if not os.environ.get("SOURCE_DATE_EPOCH", "").isdigit():
        raise BuildError("SOURCE_DATE_EPOCH is not set to a time; 'make release' sets it to the time of the commit")
    if changed := run(["git", "status", "--porcelain"], "this is not a git checkout"):
        raise BuildError(f"a release is built from a commit, and these files differ from it:\n{changed}")
    out.mkdir(parents=True)
    if build_wheels.main([str(out)]) != 0:
        raise BuildError("the wheels could not be built")
    (sdist,) = out.glob("*.tar.gz")
    release = sdist.name.removesuffix(".tar.gz").partition("-")[2]
    for arch in build_wheels.ARCHITECTURES:
        (wheel,) = out.glob(f"*_{arch}.whl")
        write_sdk(wheel, release, arch, out)
    write_archive(SITE, out / f"vmoe-export-{release}-docs.tar.gz")
    write_sbom(out, release, out / f"vmoe-export-{release}.cdx.json")
    files = sorted(out.iterdir())
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (out / "SHA256SUMS").write_text("".join(sums))
    print("".join(f"{path.stat().st_size:>9,}  {path.name}\n" for path in files), end="")


if __name__ == "__main__":
    sys.exit(main())

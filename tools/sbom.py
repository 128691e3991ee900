"""Write a release's bill of materials in the CycloneDX format.

It lists a wheel's dependencies, and the third-party code that is compiled into the wheel.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from build_wheels import COMPILED_IN, ROOT, WORK, BuildError, run

REQUIREMENTS = ROOT / "tools" / "tested_versions.txt"
DEBIAN_FIELDS = "${source:Package}\t${source:Upstream-Version}\t${Package}\t${Version}"
SCHEMA = "1.6"


def write_sbom(wheels: Path, release: str, path: Path) -> None:
    """Write a release's bill of materials.

    Args:
        wheels: the folder with the release's wheels.
        release: the release's version.
        path: the file to write.

    Raises:
        BuildError: a package can't be installed, or the result is not valid CycloneDX.
    """
    installed = WORK / "installed"
    shutil.rmtree(installed, ignore_errors=True)
    run([sys.executable, "-m", "venv", "--without-pip", str(installed)], "the venv can't be created")
    pip = [sys.executable, "-m", "pip", f"--python={installed}", "install", "-q", "--no-compile", "--no-deps"]
    run([*pip, "-r", str(REQUIREMENTS)], f"{REQUIREMENTS} can't be installed")
    run([*pip, "--no-index", f"--find-links={wheels}", f"vmoe-export=={release}"], "the wheel can't be installed")
    command = [sys.executable, "-m", "cyclonedx_py", "environment", str(installed), f"--pyproject={ROOT / 'pyproject.toml'}"]
    options = ["--mc-type=library", f"--sv={SCHEMA}", "--output-reproducible", "--of=JSON"]
    bill = json.loads(run([*command, *options], "cyclonedx-py can't describe the installed wheel"))
    parts = compiled_in()
    root = bill["metadata"]["component"]
    root["components"] = parts
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    check(text)
    path.write_text(text, encoding="utf-8")


def compiled_in() -> list[dict[str, Any]]:
    """Return the third-party components that are compiled into the libraries.

    They are headers from Debian packages, and zig's C++ library.
    """
    query = ["dpkg-query", "-W", "-f", DEBIAN_FIELDS + "\n", *COMPILED_IN]
    rows = [line.split("\t") for line in run(query, "dpkg-query doesn't know the headers' packages").splitlines()]
    components = [
        (source, upstream, f"pkg:deb/debian/{package}@{whole}", COMPILED_IN[package])
        for source, upstream, package, whole in rows
    ]
    zig = version("ziglang")
    components.append(("libc++ of zig", zig, f"pkg:pypi/ziglang@{zig}", "Apache-2.0 WITH LLVM-exception AND MIT"))
    return [
        {"type": "library", "bom-ref": purl, "name": name, "version": number, "purl": purl}
        | {"licenses": [{"expression": licence}]}
        for name, number, purl, licence in sorted(components)
    ]


def check(text: str) -> None:
    """Check a text against CycloneDX's schema.

    Raises:
        BuildError: the text is not valid CycloneDX.
    """
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.from_version(SCHEMA)).validate_str(text)
    if error is not None:
        raise BuildError(f"the bill of materials is not valid CycloneDX: {error}")

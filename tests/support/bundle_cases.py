"""The list of good and bad bundles on which both readers, Python's and C++'s, must agree."""

from __future__ import annotations

import bundle_file_cases
import bundle_manifest_cases

CASES = [*bundle_file_cases.CASES, *bundle_manifest_cases.CASES]

"""The list of good and bad bundles on which the Python reader and the C++ reader must agree."""

from __future__ import annotations

import bundle_file_cases
import bundle_manifest_cases

CASES = [*bundle_file_cases.CASES, *bundle_manifest_cases.CASES]

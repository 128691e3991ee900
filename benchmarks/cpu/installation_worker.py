"""One installation of the runtime with a bundle loaded, in a process of its own, that times a call whenever it is told to.

    python -P [-S] installation_worker.py JSON

where JSON has `paths` (put before sys.path), `bundle`, `threads` and `profile` (or null). It answers with a line
of JSON: once loaded with `package`, `library` and `description`, and then to each batch size N that is read from standard
input with the `seconds` of one call of N images and a `sum` over its logits' absolute values, or to 0 with the `seconds` of
loading the bundle again, every file checked, and answering one batch.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main(given: dict[str, Any]) -> None:
    """Loads, then answers until its input ends."""
    sys.path[:0] = given["paths"]
    import numpy as np

    import vmoe_runtime
    from vmoe_runtime.op_library import find_library

    def load() -> vmoe_runtime.Engine:
        options = {name: given[name] for name in ("threads", "profile")}
        return vmoe_runtime.Engine.load(given["bundle"], backend="onnxruntime", **options)

    engine = load()
    library = find_library()
    answer = {"package": vmoe_runtime.__file__, "library": str(library) if library else None}
    print(json.dumps({**answer, "description": engine.backend_description}), flush=True)
    spec = engine.manifest.input
    for line in sys.stdin:
        batch = int(line)
        shape = batch or engine.manifest.batch_multiple, spec.height, spec.width, spec.channels
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        if not batch:
            engine.close()
        start = time.perf_counter()
        if not batch:
            engine = load()
        logits = engine(images)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "sum": float(np.abs(logits).sum())}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

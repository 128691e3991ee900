"""Writes small checkpoints in the layouts that the installed version of Orbax uses, for tests/data/orbax.tar.gz.

    python tests/support/make_orbax.py FOLDER

The program was run with orbax-checkpoint 0.2.7 (jax 0.4.13), 0.5.9 (jax 0.4.26) and 0.12.8. `save` calls Orbax in the same
way as the official trainer.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

EXPERTS = 8


def parameters() -> dict[str, np.ndarray[Any, Any]]:
    """Return the parameters that every checkpoint contains, by official name."""
    random = np.random.default_rng(7)
    shapes = {
        "cls": (1, 1, 4),
        "embedding/kernel": (4, 4, 1, 4),
        "Encoder/encoderblock_1/Moe/Mlp/Dense_0/kernel": (EXPERTS, 4, 6),
    }
    tree = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    tree["head/kernel"] = random.standard_normal((4, 3), np.float32).astype(ml_dtypes.bfloat16)
    tree["head/bias"] = np.zeros(3, np.float32)
    return tree


def state(place: Any) -> dict[str, Any]:
    """Return a train state. `place` is called with the name and the array of each parameter, and returns a jax array."""
    from official_writer import nest

    params = nest({name: place(name, array) for name, array in parameters().items()})
    moments = nest({name: place(name, array + 1) for name, array in parameters().items()})
    return {"step": 5, "params": params, "opt_state": [{"mu": {"params": moments}}, None]}


def main(folder: Path) -> None:
    """Write one folder per layout."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={EXPERTS}"
    import jax
    import orbax.checkpoint as ocp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    found = version("orbax-checkpoint")
    mesh = Mesh(np.array(jax.devices()), ("d",))

    def sharded(name: str, array: Any) -> Any:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec("d" if len(array) == EXPERTS else None)))

    def whole(name: str, array: Any) -> Any:
        return jax.device_put(array, jax.devices()[0])

    def save(name: str, tree: Any, step: int = 5, **options: Any) -> None:
        handler = ocp.PyTreeCheckpointHandler(**options)
        manager = ocp.CheckpointManager((folder / f"{found} {name}").absolute(), {"state": ocp.AsyncCheckpointer(handler)})
        manager.save(step, items={"state": tree})
        manager.wait_until_finished()

    folder.mkdir(parents=True, exist_ok=True)
    save("trainer", state(sharded))
    if found.startswith("0.12"):
        for database in (True, False):
            for third in (True, False):
                save(f"ocdbt {database} zarr3 {third}", state(sharded), use_ocdbt=database, use_zarr3=third)
        with ocp.CheckpointManager((folder / f"{found} default").absolute()) as manager:
            manager.save(5, args=ocp.args.StandardSave(state(whole)))
        with ocp.StandardCheckpointer() as alone:
            alone.save((folder / f"{found} alone").absolute(), state(whole)["params"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

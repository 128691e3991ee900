"""Finds the model parameters in whatever tree a checkpoint stores, under their official names."""

from __future__ import annotations

from collections.abc import Iterable

from vmoe_export.errors import CheckpointError

_ROOT_WORDS = {"params", "target", "model", "module", "state_dict"}
_LANDMARK = "embedding/kernel"

MAX_TREE_DEPTH = 64  # levels that a reader follows; the official tree has 7, a train state a few more


def parameter_names(stored_names: Iterable[str]) -> dict[str, str]:
    """Maps official parameter names to the stored names.

    The parameters may lie at the root, or under `params` or `target` (also nested, as in a train state), and names may
    be joined by `/` or by `.`.

    Raises:
        CheckpointError: there is no `embedding/kernel`, so this isn't a V-MoE or ViT parameter tree; or one name twice.

    Example:
        >>> parameter_names(["params/embedding/kernel", "step"])
        {'embedding/kernel': 'params/embedding/kernel'}
    """
    by_path: dict[str, str] = {}
    for name in stored_names:
        path = name if "/" in name else name.replace(".", "/")
        if by_path.setdefault(path, name) != name:
            raise CheckpointError(f"it holds '{path[:80]}' twice, joined by '/' and by '.'")
    prefixes = sorted(
        (
            path[: -len(_LANDMARK)]
            for path in by_path
            if path.endswith(_LANDMARK) and set(path[: -len(_LANDMARK)].split("/")) <= _ROOT_WORDS | {""}
        ),
        key=len,
    )
    if not prefixes:
        some = ", ".join(path[:80] for path in sorted(by_path)[:3]) or "nothing"
        raise CheckpointError(f"it holds no '{_LANDMARK}', so it is not a V-MoE parameter tree (it holds {some})")
    root = prefixes[0]
    return {path[len(root) :]: name for path, name in by_path.items() if path.startswith(root)}

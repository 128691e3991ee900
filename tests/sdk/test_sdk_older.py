"""Bundles and callers of before there were routing kinds: the C++ SDK answers them as it did, and says what is new, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sdk_build
import test_old_bundles
from sdk_build import Runner, setting_fields

from vmoe_runtime.bundle.reader import Bundle

OLD = [name for name in test_old_bundles.OLD if name[:2] in ("v1", "v2")]


@pytest.fixture
def runners(tmp_path: Path) -> Iterator[Any]:
    """Starts runners on standard ops, and ends them after the test."""
    started: list[Runner] = []

    def start(bundle: Path) -> Runner:
        prefix = sdk_build.prefixes().standard_ops
        started.append(Runner(prefix, bundle, sdk_build.onnxruntime_library(), 1, tmp_path))
        return started[-1]

    yield start
    for runner in started:
        runner.close()


@pytest.mark.parametrize("name", OLD)
def test_routing_of_an_old_bundle_is_derived_from_its_slots(name: str, runners: Any) -> None:
    runner = runners(test_old_bundles.FOLDER / name)
    images = test_old_bundles.images(name)
    version, precision = name.split("-")
    for profile in Bundle.open(test_old_bundles.FOLDER / name).manifest.profiles.values():
        (found,) = runner.routing(images, *setting_fields(profile.name)).values()
        slot = test_old_bundles.data(version)[f"{precision}/{profile.name}/slot"]
        places = slot.shape[0] * profile.slots[0]  # of an expert
        np.testing.assert_array_equal(found.slot, slot)
        np.testing.assert_array_equal(found.kept, slot >= 0)
        np.testing.assert_array_equal(found.expert, np.where(slot >= 0, slot // places, -1))
        # 3 x 3 patches behind the classifier token.
        patches = (slot >= 0).any(axis=-1).reshape(len(images), 10)[:, 1:].reshape(-1, 3, 3)
        np.testing.assert_array_equal(found.patch_mask, patches)
        assert (found.dispatch, found.combine) == (None, None)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ({"pool": True}, "pool"),
        ({"pool": False}, "pool"),
        ({"max_experts": 4}, "max_experts"),
        ({"max_experts": 2, "k": 1}, "max_experts"),
        ({"profile": "c0.3-k1-pool"}, "pool"),
        ({"profile": "c0.3-k1-m2"}, "max_experts"),
        ({"profile": "c0.3-k2-vanilla-m2", "bpr": True}, "max_experts"),
    ],
)
def test_an_old_bundle_takes_no_policies(setting: dict[str, Any], names: str, runners: Any) -> None:
    with pytest.raises(AssertionError, match=f"this bundle's graph takes no {names}: .* export it again"):
        runners(test_old_bundles.FOLDER / "v2-fp32").ask("setting", *setting_fields(**setting))


def test_structs_of_before_there_were_kinds_are_filled_as_far_as_they_go() -> None:
    program = sdk_build.programs(sdk_build.prefixes().standard_ops, "sdk_short_structs") / "sdk_short_structs"
    done = sdk_build.run(program, test_old_bundles.FOLDER / "v2-fp32", sdk_build.onnxruntime_library())
    assert done.returncode == 0
    assert done.stdout == "info ok\nprofile ok\nsetting ok\nlayer ok\n"

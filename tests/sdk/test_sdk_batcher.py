"""Tests of the SDK's batcher.

Every valid request must get exactly one response, which has the same bits as the engine's. Every invalid request must get
a message.
"""

from __future__ import annotations

import re
from pathlib import Path

import sdk_build

from vmoe_serve.endpoints import OPTIONS

BATCHER = Path(__file__).parents[2] / "plugins" / "include" / "vmoe" / "batcher.hpp"
SENTENCES = [
    "1 most_images must be 1 or more, and most_waiting no less",
    "1 most_images must be 1 or more, and most_waiting no less",
    "1 there must be as many levels in the plan as names of levels",
    "3 there is no profile 'fastest'; the bundle has",
    "1 target must be more than 0",
    "5 the batcher can't start: ",
    "3 there is no profile 'fastest'; the bundle has",
    "1 most_images must be 1 to 65536",
    "4 a request takes 1 to 8 images, not 0",
    "4 a request takes 1 to 8 images, not 9",
    "4 images have shape (1, 28, 29, 1), and the model takes (N, 28, 28, 1)",
    "4 float images go from 0 to 255, and the model takes float32 in [-1, 1]",
    "3 there is no profile 'fastest'; the bundle has",
    "3 there is no profile 'a name with a zero byte'; the bundle has",
    "1 there must be a callback for the answer",
    "9 the server is shutting down",
]


def batcher(bundle: Path, rounds: int) -> tuple[int, list[str]]:
    program = sdk_build.program(sdk_build.prefixes().whole, "sdk_batcher")
    done = sdk_build.run(program, bundle, sdk_build.onnxruntime_library(), str(rounds))
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_every_request_has_one_answer_with_the_bits_of_the_engine(mnist_image_bundle: Path) -> None:
    code, (counts, *refusals) = batcher(mnist_image_bundle, 200)
    assert code == 0
    found = re.fullmatch(r"right (\d+) cancelled (\d+) busy (\d+) closed (\d+) batch_size (\d+)", counts)
    assert found and all(int(count) > 0 for count in found.groups()[:4]) and 2 <= int(found[5]) <= 8
    assert len(refusals) == len(SENTENCES)
    for refusal, sentence in zip(refusals, SENTENCES, strict=True):
        assert refusal.startswith(sentence), refusal


def test_a_bundle_that_routes_images_together_is_refused(mnist_bundle: Path) -> None:
    code, _ = batcher(mnist_bundle, 1)
    assert code == 2


def test_each_failure_of_its_thread_is_told_to_the_requests_that_it_concerns(mnist_image_bundle: Path) -> None:
    program = sdk_build.program(sdk_build.prefixes().whole, "sdk_batcher_memory")
    done = sdk_build.run(program, mnist_image_bundle, sdk_build.onnxruntime_library())
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(r"right (\d+) memory (\d+) runtime (\d+) other 0 spared (\d+)\n", done.stdout)
    assert found, done.stdout
    right, memory, runtime, spared = map(int, found.groups())
    assert min(right, memory, runtime, spared) > 0 and right + memory + runtime == 600


def test_its_defaults_are_those_of_the_services() -> None:
    found = re.findall(r"int64_t most_(?:images|waiting) = (\d+);", BATCHER.read_text())
    assert found == [str(option.default) for option in OPTIONS if option.name in ("batch_size", "max_waiting")]

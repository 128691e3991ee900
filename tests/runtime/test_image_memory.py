"""Check that preparing a picture of any shape needs little memory.

The tests limit the memory of the process in proportion to the pixels of the picture and of the model's input.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import sdk_build
from odd_pictures import png
from PIL import Image

from vmoe_runtime import ImageError
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.images import to_batch
from vmoe_runtime.preprocessing import squash

# While this program prepares a picture, its memory may grow by only 64 MB plus 8 bytes per value. The number of values is
# the number of pixels times the number of channels. The pixels are those of the picture and of the model's input together.
# If the picture and the model differ in their channels, the larger number counts.
PROGRAM = """
import io, resource, sys
import numpy as np
from PIL import Image
from vmoe_runtime import ImageError
from vmoe_runtime.images import to_batch
from vmoe_runtime.bundle.manifest import InputSpec
from vmoe_runtime.preprocessing import read_steps

STEPS = {
    28: "resize(28)", 224: "resize_small(256)|central_crop(224)", 640: "resize(640)",
    29: "pillow_bilinear(29)", 225: "pillow_bicubic_small(256)|round_central_crop(225)", 641: "pillow_bicubic(641)",
}
REFUSALS = ("is too long and narrow",)

def prepared(picture, pixels, bands, side, channels):
    spec = InputSpec("uint8", side, side, channels, read_steps(STEPS[side]))
    with open("/proc/self/statm") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    room = (64 << 20) + 8 * (pixels + side * side) * max(bands, channels)
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + room, most))
    try:
        assert to_batch(picture, spec).shape == (1, side, side, channels)
    except ImageError as error:
        assert any(words in str(error) for words in REFUSALS), error
        return False
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return True

def encoded(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
"""

ODD = """
generator = np.random.default_rng(0)
prepared(encoded(Image.new("RGB", (9, 9)), "PNG"), 81, 3, 28, 3)  # Pillow's decoders are loaded once
answered = 0
for number in range(200):
    area = 10 ** generator.uniform(0, 6)
    width = max(1, min(int(area), int(10 ** generator.uniform(0, 6)))) if number % 5 else int(area)
    size = (width, max(1, int(area / width)))
    size = size if number % 2 else size[::-1]
    mode, kind = [("L", "PNG"), ("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("CMYK", "TIFF"), ("RGB", "JPEG")][number % 6]
    image = Image.new(mode, size, 7)
    picture = image if number % 4 == 0 or max(size) > 65000 else encoded(image, kind)
    side, channels = list(STEPS)[number % 6], [1, 3][number // 6 % 2]
    answered += prepared(picture, size[0] * size[1], len(image.getbands()), side, channels)
print(answered)
"""

LONG = """
for size in ((1_000_000, 1), (1, 1_000_000), (80_000_000, 1)):
    for side in STEPS:
        prepared(Image.new("L", size, 7), size[0] * size[1], 1, side, 3)
assert prepared(Image.new("L", (80_000_000, 1), 7), 80_000_000, 1, 28, 1)
print("done")
"""

OVERLAPPING = """
import struct, zlib

def directory(entries, size):
    tags = [*entries, *((tag, 7, size, 0) for tag in range(40_000, 42_000))]
    packed = b"".join(struct.pack("<2H2L", *tag) for tag in tags)
    return (b"II*\\0" + struct.pack("<LH", 8, len(tags)) + packed + bytes(4)).ljust(size, b"\\0")

def chunk(kind, content):
    return struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))

size = 2_000_000
png = encoded(Image.new("RGB", (28, 28)), "PNG")
exif = png[:33] + chunk(b"eXIf", directory([(274, 3, 1, 6)], size)) + png[33:]
header = [(256, 4, 1, 28), (257, 4, 1, 28), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 1_000_000)]
tiff = directory([*header, (277, 3, 1, 1), (278, 4, 1, 28), (279, 4, 1, 784)], size)
prepared(encoded(Image.new("L", (9, 9)), "TIFF"), 81, 1, 28, 3)  # Pillow's decoder is loaded once
print(prepared(exif, 28 * 28, 3, 28, 3), prepared(tiff, 28 * 28, 1, 28, 3))
"""


def run(script: str) -> str:
    return sdk_build.built(sys.executable, "-c", PROGRAM + script, OPENBLAS_NUM_THREADS="1").strip()


def test_200_odd_pictures_stay_within_their_memory() -> None:
    assert int(run(ODD)) > 150  # the remaining pictures are refused, because they are too long and narrow


def test_a_picture_of_one_row_or_column_stays_within_its_memory() -> None:
    assert run(LONG) == "done"


def test_tags_that_share_their_data_take_the_memory_of_one_and_no_warnings() -> None:
    program = PROGRAM + "import warnings; warnings.showwarning = lambda text, *_, **__: print(text)\n" + OVERLAPPING
    said = sdk_build.built(sys.executable, "-c", program, OPENBLAS_NUM_THREADS="1").splitlines()
    assert [line for line in said if "EXIF orientation" not in line] == ["True True"]


@pytest.mark.parametrize(
    ("width", "height"),
    [(10_000, 10_000), (100_000, 100_000), (2**31 - 1, 1), (1, 80_000_000)],
)
@pytest.mark.filterwarnings("error")
def test_a_header_that_tells_of_too_many_pixels_is_believed_before_they_are_decoded(
    width: int, height: int, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(png(8, 0, data=b"", size=(width, height)))
    start = time.process_time()
    with pytest.raises(ImageError, match=r"large\.png has .* pixels"):
        to_batch(path, InputSpec("float32", 28, 28, 1, squash(28, 28)))
    assert time.process_time() - start < 5


def test_a_picture_in_memory_of_too_many_rows_is_refused() -> None:
    with pytest.raises(ImageError, match="the image has 4,194,305 rows, more than 4,194,304; crop it first"):
        to_batch(Image.new("L", (1, (1 << 22) + 1)), InputSpec("float32", 28, 28, 1, squash(28, 28)))


def test_memory_that_is_missing_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (5000, 5000)).save(path)
    program = f"""
import resource
from vmoe_runtime.pictures import opened
from PIL import Image
Image.init()
with open("/proc/self/statm") as file:
    mapped = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + (16 << 20),) * 2)
try:
    with opened({str(path)!r}, 1):
        print("decoded")
except MemoryError:
    print("not enough")
"""
    assert sdk_build.built(sys.executable, "-c", program) == "not enough\n"

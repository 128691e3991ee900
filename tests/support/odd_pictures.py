"""More than 200 pictures, by name, that different decoders may decode differently."""

from __future__ import annotations

import functools
import struct
import zlib

import numpy as np
from picture_file import picture_file
from PIL import Image

SIDE = 64
_RNG = np.random.default_rng(0)
_COLORS = _RNG.integers(0, 256, 768, np.uint8).tobytes()
END = b"\0\0\0\0IEND\xae\x42\x60\x82"


jpeg = functools.partial(picture_file, form="JPEG")


def slope(height: int = SIDE, width: int = SIDE) -> Image.Image:
    """Return smooth colours without edges. All JPEG decoders give nearly the same result for them."""
    y, x = np.mgrid[0:height, 0:width] * 255 // max(height, width)
    return Image.fromarray(np.stack([x, y, (x + y) // 2], -1).astype(np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    depth: int,
    color: int,
    extra: bytes = b"",
    end: bytes = END,
    *,
    rows: bytes | None = None,
    data: bytes | None = None,
    size: tuple[int, int] = (SIDE, SIDE),
    methods: bytes = b"\0\0\0",
    before: bytes = b"",
) -> bytes:
    """Return a PNG file that contains either the given rows or the given compressed data.

    By default, the rows are noise. `before` and `extra` are chunks to insert before and after the PNG's header. `end` is the
    last chunk.
    """
    channels = {2: 3, 4: 2, 6: 4}.get(color, 1)
    rows = noise(depth * channels) if rows is None else rows
    header = chunk(b"IHDR", struct.pack(">2I2B", *size, depth, color) + methods)
    return (
        b"\x89PNG\r\n\x1a\n" + before + header + extra + chunk(b"IDAT", zlib.compress(rows) if data is None else data) + end
    )


def noise(bits: int) -> bytes:
    """Return rows of noise with `bits` bits per pixel, each preceded by a zero byte (no filter)."""
    rows = _RNG.integers(0, 256, (SIDE, 1 + bits * SIDE // 8), np.uint8)
    rows[:, 0] = 0
    return rows.tobytes()


def _pngs() -> dict[str, bytes]:
    palette, text, flat = chunk(b"PLTE", _COLORS), chunk(b"tEXt", b"a\0b"), noise(24)
    data = zlib.compress(flat)
    found = {f"{depth} bits of {color}": png(depth, color) for depth in (1, 2, 4, 8, 16) for color in (0, 2, 4, 6)}
    for depth in (1, 2, 4, 8):
        for count in (0, 1, 1 << depth, 256):
            found[f"{count} colours in {depth} bits"] = png(depth, 3, chunk(b"PLTE", _COLORS[: 3 * count]))
        transparent = chunk(b"PLTE", _COLORS[: 3 << depth]) + chunk(b"tRNS", b"\0\x80")
        found[f"transparent colours in {depth} bits"] = png(depth, 3, transparent)
        found[f"no palette in {depth} bits"] = png(depth, 3)
        found[f"transparent grey of {depth} bits"] = png(depth, 0, chunk(b"tRNS", b"\0\1"))
    for depth, color in ((3, 0), (0, 0), (32, 0), (16, 3), (8, 1), (8, 5), (8, 7)):
        found[f"no kind {depth} {color}"] = png(depth, color)
    extras = {
        "transparent": chunk(b"tRNS", b"\0\1\0\1\0\1"),
        "palette": palette,
        "text": text,
        "an unknown chunk": chunk(b"abCD", b""),
        "an unknown critical chunk": chunk(b"ABCD", b""),
        "two headers": chunk(b"IHDR", bytes(13)),
        "a short header": chunk(b"IHDR", b""),
        "profile": chunk(b"iCCP", b"x"),
        "gamma": chunk(b"gAMA", b"\0\1\x86\xa0"),
        "damaged frames": chunk(b"acTL", b"x"),
        "size": chunk(b"pHYs", b"x"),
        "inflated text": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 24))),
        "empty data": chunk(b"IDAT", b""),
        "wrong checksum": text[:-1] + b"x",
        "70,000 chunks": chunk(b"abCD", b"") * 70_000,
        "part of the data": chunk(b"IDAT", data[:99]) + text,
    }
    found |= {f"with {name}": png(8, 2, extra) for name, extra in extras.items()}
    found["in two parts"] = png(8, 2, chunk(b"IDAT", data[:99]) + text, data=data[99:])
    found["of Apple's"] = png(8, 2, before=chunk(b"CgBI", bytes(4)))
    found["text first"] = png(8, 2, before=text)
    ends = {"none": b"", "half": END[:7], "with content": chunk(b"IEND", b"x"), "garbage behind": END + b"x" * 99}
    found |= {f"end: {name}": png(8, 2, end=end) for name, end in ends.items()}
    datas = {"cut": data[:-999], "no checksum": data[:-4], "no zlib": b"\0\0" + data[2:], "more": data + b"x", "none": b""}
    found |= {f"data: {name}": png(8, 2, data=each) for name, each in datas.items()}
    rows = {"short": flat[:-1], "long": flat + bytes(50), "an unknown filter": b"\x09" + flat[1:]}
    rows |= {
        f"filter {kind}": bytes([kind]).join([b"", *(flat[i + 1 : i + 193] for i in range(0, len(flat), 193))])
        for kind in range(5)
    }
    found |= {f"rows: {name}": png(8, 2, rows=each) for name, each in rows.items()}
    found |= {f"method {methods!r}": png(8, 2, methods=methods) for methods in (b"\1\0\0", b"\0\1\0", b"\0\0\2")}
    found |= {f"size {size}": png(8, 2, size=size) for size in ((0, SIDE), (SIDE, 0), (1 << 31, 1))}
    frames = [slope(), slope().rotate(90)]
    found |= {
        f"frames {own}": picture_file(frames[0], "PNG", save_all=True, append_images=frames, default_image=own)
        for own in (True, False)
    }
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for color, dtype in ((0, "u1"), (2, "u1"), (0, ">u2"), (6, ">u2")):
        pixels = _RNG.integers(0, 256, (SIDE, SIDE, {0: 1, 2: 3, 6: 4}[color])).astype(dtype)
        lines = b"".join(b"\0" + line.tobytes() for x, y, across, down in passes for line in pixels[y::down, x::across])
        found[f"interlaced {color} {dtype}"] = png(8 * pixels.itemsize, color, rows=lines, methods=b"\0\0\1")
    for width, height in ((1, 1), (1, 3000), (3000, 1), (7, 5), (1000, 999)):
        for depth, color, bits in ((1, 0, 1), (8, 2, 24), (16, 0, 16), (16, 6, 64)):
            same = (b"\0" + _RNG.bytes((bits * width + 7) // 8)) * height
            found[f"{width}x{height}, {depth} bits of {color}"] = png(depth, color, rows=same, size=(width, height))
    return found


def _jpegs() -> dict[str, bytes]:
    found = {f"quality {quality}": jpeg(slope(), quality=quality) for quality in (75, 95, 100)}
    for ratio in ("4:4:4", "4:2:2", "4:2:0", "4:1:1"):
        found |= {
            f"{ratio} {kind}": jpeg(slope(), subsampling=ratio, progressive=kind, quality=95) for kind in (True, False)
        }
    found |= {
        f"{mode} {kind}": jpeg(slope().convert(mode), progressive=kind) for mode in ("L", "CMYK") for kind in (True, False)
    }
    sizes = [(1, 1), (61, 47), (32, 33), (64, 200), (100, 33), (300, 301), (129, 64), (40, 250), (65, 63), (160, 160)]
    sizes += [(1, 3000), (3000, 1), (1000, 999)]
    found |= {
        f"size {size} {ratio} {kind}": jpeg(slope(*size), quality=95, subsampling=ratio, progressive=kind)
        for size in sizes
        for ratio in ("4:4:4", "4:2:0", "4:2:2")
        for kind in (True, False)
    }
    found |= {f"size {size}, PNG's": picture_file(slope(*size).convert("LA")) for size in sizes}
    exif = Image.Exif()
    exif[0x112] = 6
    found |= {
        "rotated": jpeg(slope(), exif=exif),
        "comment": jpeg(slope(), comment=b"x"),
        "profile": jpeg(slope(), icc_profile=b"x"),
    }
    found |= {
        "RGB": jpeg(slope(), keep_rgb=True, quality=95),
        "two": picture_file(slope(), "MPO", save_all=True, append_images=[slope()]),
    }
    plain, parts = jpeg(slope()), jpeg(slope(), restart_marker_blocks=2)
    scan, frame = plain.index(b"\xff\xda"), plain.index(b"\xff\xc0")
    third = parts.index(b"\xff\xd3")
    restarts = {
        "right": b"\xff\xd3",
        "none": b"",
        "wrong": b"\xff\xd0",
        "no marker": b"\xff\x55",
        "twice": b"\xff\xd3\xff\xd3",
        "100,000": b"\xff\xd3\xff\xd4\xff\xd5\xff\xd6\xff\xd7\xff\xd0\xff\xd1\xff\xd2" * 12_500 + b"\xff\xd3",
    }
    found |= {f"restart: {name}": parts[:third] + each + parts[third + 2 :] for name, each in restarts.items()}
    scans = {"restart": b"\xff\xd0", "unknown": b"\xff\x30", "comment": b"\xff\xfe\0\4ab", "end": b"\xff\xff\xff\xd9"}
    found |= {
        f"in the scan: {name}": plain[: scan + 20] + each + plain[scan + 20 :]
        for name, each in scans.items()
        if name != "end"
    }
    fills = {"fill": b"\xff\xff", "junk": b"x", "long fill": b"\xff" * 100_000, "comments": b"\xff\xfe\0\2" * 100_000}
    found |= {f"before the scan: {name}": plain[:scan] + each + plain[scan:] for name, each in (scans | fills).items()}
    ends = {
        "none": b"",
        "half": b"\xff",
        "filled": b"\xff\xff\xff\xd9",
        "garbage behind": b"\xff\xd9" + b"x" * 99,
        "twice": b"\xff\xd9" + plain,
    }
    found |= {f"end: {name}": plain[:-2] + each for name, each in ends.items()}
    found |= {f"cut at {at}": plain[:at] for at in range(2, len(plain), len(plain) // 12)}
    frames = {
        "12 bits": (4, 12),
        "no width": (8, 0),
        "arithmetic": (1, 0xC9),
        "lossless": (1, 0xC3),
        "extended": (1, 0xC1),
        "factor 0": (11, 2),
        "two components": (9, 2),
    }
    found |= {
        f"frame: {name}": plain[: frame + at] + bytes([to]) + plain[frame + at + 1 :] for name, (at, to) in frames.items()
    }
    found["two frames"] = plain[:frame] + plain[frame : frame + 19] + plain[frame:]
    cmyk = jpeg(slope().convert("CMYK"))
    adobe = cmyk.index(b"\xff\xee")
    found["CMYK without Adobe"] = cmyk[:adobe] + cmyk[adobe + 16 :]
    for kind in (b"\xdb", b"\xc4"):  # tables
        lacking = plain
        while (at := lacking.find(b"\xff" + kind)) >= 0:
            lacking = lacking[:at] + lacking[at + 2 + int.from_bytes(lacking[at + 2 : at + 4], "big") :]
        found[f"no tables {kind!r}"] = lacking
    return found


def _exif(order: str, *entries: tuple[int, int, int, int], directory: int = 8) -> bytes:
    """Return TIFF tags in the byte order `order`, which is "<" or ">".

    Each entry is a tag, a type, a count and a value of 2 or 4 bytes.
    """
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", directory)
    values = (
        struct.pack(f"{order}HHIHxx" if kind == 3 else f"{order}HHII", tag, kind, *rest) for tag, kind, *rest in entries
    )
    return head + struct.pack(f"{order}H", len(entries)) + b"".join(values) + bytes(4)


def _turned() -> dict[str, bytes]:
    """Return JPEG and PNG files that specify their orientation in many ways."""
    width, turn = (0x100, 4, 1, 48), 0x112
    tags = {f"{each} {order}": _exif(order, width, (turn, 3, 1, each)) for each in range(11) for order in "<>"}
    tags |= {
        "in 4 bytes": _exif("<", (turn, 4, 1, 6)),
        "twice": _exif("<", (turn, 3, 2, 6)),
        "thrice": _exif("<", (turn, 4, 3, 26)) + struct.pack("<3I", 6, 1, 1),
        "never": _exif("<", (turn, 3, 0, 6)),
        "a text": _exif("<", (turn, 2, 1, 54)),
        "no tag": _exif("<", width),
        "no tags": _exif("<"),
        "cut": _exif("<", width, (turn, 3, 1, 6))[:-16],
        "far away": _exif("<", (turn, 3, 1, 6), directory=1 << 30),
        "no order": b"XX" + _exif("<", (turn, 3, 1, 6))[2:],
        "nothing": b"",
    }

    def app1(content: bytes) -> bytes:
        return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content

    def noted(*notes: bytes) -> bytes:
        return plain[:2] + b"".join(map(app1, notes)) + plain[2:]

    def xmp(text: bytes) -> bytes:
        return b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>" + text + b"</x:xmpmeta>"

    head, plain = b"Exif\0\0", jpeg(slope(48, 64), quality=95)
    named = {
        "attribute": b'<a tiff:Orientation="6"/>',
        "element": b"<tiff:Orientation>8</tiff:Orientation>",
        "other": b"Orientation=6",
    }
    found = {f"JPEG, turned {name}": noted(head + each) for name, each in tags.items()}
    found |= {f"PNG, turned {name}": png(8, 2, chunk(b"eXIf", each)) for name, each in tags.items()}
    found |= {f"JPEG, XMP {name}": noted(xmp(each)) for name, each in named.items()}
    found["JPEG, XMP beside a text"] = noted(head + tags["a text"], xmp(named["attribute"]))
    found["JPEG, XMP beside tags"] = noted(head + tags["3 <"], xmp(named["attribute"]))
    found["JPEG, tags in two parts"] = noted(head + tags["6 >"][:20], head + tags["6 >"][20:])
    found["PNG, turned behind its pixels"] = png(8, 2, end=chunk(b"eXIf", tags["6 <"]) + END)
    return found


def odd_pictures() -> dict[str, bytes]:
    kinds = {"PNG": _pngs(), "JPEG": _jpegs()}
    return _turned() | {f"{form}, {name}": content for form, pictures in kinds.items() for name, content in pictures.items()}

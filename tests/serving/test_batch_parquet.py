"""Pictures in Parquet files as a job over many reads them: which rows a shard gets, and what is wrong with a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmoe_runtime.errors import ImageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pq = pytest.importorskip("pyarrow.parquet")

from vmoe_serve.batch.pictures import open_pictures  # noqa: E402

COLUMN = "image"
NOT_UTF8 = pa.array([b"\xff", b"\xfe"], pa.binary()).view(pa.string())


def write(path: Path, values: list[bytes]) -> None:
    pq.write_table(pa.table({COLUMN: pa.array(values, pa.binary())}), path, row_group_size=4)


def write_without_rows(path: Path, groups: int) -> None:
    schema = pa.schema([(COLUMN, pa.binary())])
    with pq.ParquetWriter(path, schema) as file:
        for _ in range(groups):
            file.write_table(schema.empty_table())
    assert pq.read_metadata(path).num_row_groups == groups


@pytest.mark.parametrize("size", [1, 5, 10, 13, 20])
def test_files_without_rows_are_in_no_shard(size: int, tmp_path: Path) -> None:
    values = [b"%d" % number for number in range(20)]
    for name, groups in (("0", 0), ("b", 0), ("c", 1), ("e", 1)):
        write_without_rows(tmp_path / f"{name}.parquet", groups)
    write(tmp_path / "a.parquet", values[:10])
    write(tmp_path / "d.parquet", values[10:])
    pictures = open_pictures(tmp_path, COLUMN)
    parts = [pictures.part(first, min(first + size, 20)) for first in range(0, len(pictures), size)]
    assert [content for part in parts for content in part.contents()] == values
    assert [path for part in parts for path in part.paths] == ["a.parquet"] * 10 + ["d.parquet"] * 10


def test_of_a_struct_the_bytes_alone_are_read(tmp_path: Path) -> None:
    """Python can't hold text that is no UTF-8, nor a time beyond the year 9999."""
    late = pa.array([1 << 60, 0], pa.timestamp("us"))
    image = pa.StructArray.from_arrays(
        [NOT_UTF8, pa.array([b"a", b"b"]), late], ["path", "bytes", "taken"], mask=pa.array([False, True])
    )
    pq.write_table(pa.table({COLUMN: image}), tmp_path / "a.parquet")
    assert list(open_pictures(tmp_path, COLUMN).part(0, 2).contents()) == [b"a", None]


def test_of_a_large_row_group_only_what_comes_before_is_read(tmp_path: Path) -> None:
    picture = bytes(range(256)) * 256
    table = pa.table({COLUMN: [picture] * 512})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_batch_size=16, data_page_size=1 << 20)
    assert pq.read_metadata(path).num_row_groups == 1

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    pictures, before = open_pictures(path, COLUMN), read()
    assert list(pictures.part(64, 128).contents()) == [picture] * 64
    assert read() - before < path.stat().st_size / 2


@pytest.mark.parametrize("column", ["\udcff", "image\udcff"])
def test_a_column_that_is_no_utf8_is_not_there(column: str, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", [b"a"])
    with pytest.raises(ImageError, match=r"has no column '.*' \(image\)"):
        open_pictures(tmp_path, column)


def vanish(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:200] = bytes(196)
    path.write_bytes(content)


def shorten(path: Path) -> None:
    write(path, [b"a"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (vanish, r"a\.parquet is not a readable Parquet file \(No such file or directory\)"),
        (damage, r"a\.parquet is not a readable Parquet file \("),
        (shorten, r"a\.parquet has 1 rows, and had more when the job began"),
    ],
)
def test_a_file_that_is_not_what_it_was_is_named(change: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, [b"%d" % number for number in range(9)])
    part = open_pictures(tmp_path, COLUMN).part(0, 9)
    change(path)
    with pytest.raises(ImageError, match=said):
        list(part.contents())

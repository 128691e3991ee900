"""The records of a torch zip file, and the proof that they are whole: torch.load checks neither sizes nor CRC-32.

Only what torch.save writes is taken: records one behind the other from the first byte on, stored as they are, then the
directory, then nothing. So there is one way to read the file, and no byte belongs to two records.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import NoReturn

from vmoe_export.checkpoint.plain_file import Array, PlainFile
from vmoe_export.errors import CheckpointError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_END, _END64, _LOCATOR64 = b"PK\5\6", b"PK\6\6", b"PK\6\7"
_END_BYTES, _TAIL64_BYTES = 22, 56 + 20
_MAX_DIRECTORY_BYTES = 64 << 20
_ENCRYPTED, _WITH_DESCRIPTOR = 1, 8
_DESCRIPTOR_BYTES = {0, 12, 16, 20, 24}
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Record:
    """Where the bytes of a record lie in the file, and what their CRC-32 must be."""

    offset: int
    size: int
    crc: int


def read_records(file: PlainFile) -> dict[str, Record]:
    """The records of a torch file by name, such as `data.pkl` and `data/0`, without the folder that they lie in.

    Raises:
        CheckpointError: it is not laid out as torch.save lays files out.
        OSError: it can't be read.
    """
    start = _directory(file)
    try:
        with zipfile.ZipFile(file.stream) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            if archive.start_dir != start:
                _refuse("it has two directories")
    except CheckpointError:
        raise
    except Exception:  # a damaged directory makes zipfile fail in any way
        _refuse("its directory is not readable")
    records: dict[str, Record] = {}
    position = 0
    for entry, following in zip(entries, [*(entry.header_offset for entry in entries[1:]), start], strict=True):
        if entry.header_offset != position:
            _refuse(f"there is a gap before '{entry.filename[:80]}'")
        record = _record(file, entry)
        slack = following - record.offset - record.size
        if slack not in (_DESCRIPTOR_BYTES if entry.flag_bits & _WITH_DESCRIPTOR else {0}):
            _refuse(f"the record '{entry.filename[:80]}' does not end where the next one begins")
        _, separator, name = entry.filename.partition("/")
        if not separator or name in records or not entry.filename.startswith(entries[0].filename.partition("/")[0] + "/"):
            _refuse(f"the record '{entry.filename[:80]}' is there twice, or in another folder than the first")
        records[name] = record
        position = following
    return records


def read_checked(file: PlainFile, record: Record) -> Array:
    """The bytes of a record, uint8[size].

    Raises:
        CheckpointError: their CRC-32 is another.
        OSError: they can't be read.
    """
    data = file.read(record.offset, record.size)
    if zlib.crc32(data.data) != record.crc:
        raise CheckpointError("its bytes were damaged (their CRC-32 differs)")
    return data


def check(file: PlainFile, record: Record) -> None:
    """Reads a record without keeping it; raises as `read_checked` does."""
    crc = 0
    for start in range(record.offset, record.offset + record.size, _BLOCK):
        crc = zlib.crc32(file.read(start, min(_BLOCK, record.offset + record.size - start)).data, crc)
    if crc != record.crc:
        raise CheckpointError("its bytes were damaged (their CRC-32 differs)")


def _directory(file: PlainFile) -> int:
    """Where the directory starts."""
    tail = bytes(file.read(max(0, file.size - _END_BYTES - _TAIL64_BYTES), min(file.size, _END_BYTES + _TAIL64_BYTES)))
    if tail[-_END_BYTES:][:4] != _END:
        _refuse("it is cut short, or something follows its end")
    length, start = struct.unpack("<II", tail[-10:-2])
    end = file.size - _END_BYTES
    if tail[-_END_BYTES - 20 :][:4] == _LOCATOR64:
        end -= _TAIL64_BYTES
        if len(tail) < _END_BYTES + _TAIL64_BYTES or tail[:4] != _END64:
            _refuse("its directory is not readable")
        length, start = struct.unpack("<QQ", tail[40:56])
    if start + length != end or length > _MAX_DIRECTORY_BYTES:
        _refuse("its directory does not lie at its end, or is too large")
    return int(start)


def _record(file: PlainFile, entry: zipfile.ZipInfo) -> Record:
    name = entry.filename[:80]
    header = bytes(file.read(entry.header_offset, _LOCAL_HEADER.size))
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    if signature != b"PK\3\4" or flags != entry.flag_bits or flags & _ENCRYPTED:
        _refuse(f"the record '{name}' has a damaged header")
    if method != zipfile.ZIP_STORED or entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        _refuse(f"the record '{name}' is compressed")
    start = entry.header_offset + _LOCAL_HEADER.size
    stored_name = bytes(file.read(start, name_length))
    if stored_name != entry.orig_filename.encode("utf-8" if flags & 0x800 else "cp437"):
        _refuse(f"the record '{name}' has two names")
    known = {entry.file_size, 0xFFFFFFFF}
    if not flags & _WITH_DESCRIPTOR and (crc != entry.CRC or packed not in known or size not in known):
        _refuse(f"the record '{name}' has two sizes")
    record = Record(start + name_length + extra_length, entry.file_size, entry.CRC)
    if record.offset + record.size > file.size:
        _refuse(f"the record '{name}' does not fit into the file")
    return record


def _refuse(reason: str) -> NoReturn:
    raise CheckpointError(f"it is damaged, or not as torch.save writes files: {reason}")

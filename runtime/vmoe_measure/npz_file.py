"""Opens users' npz files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vmoe_runtime.errors import ImageError
from vmoe_runtime.pictures import open_regular


@contextmanager
def opened_npz(path: Path, expected: str) -> Iterator[np.lib.npyio.NpzFile]:
    """Open an npz file for the duration of a `with` block, without executing any code that the file contains.

    Args:
        path: path of the file.
        expected: description of the expected content, for error messages.

    Raises:
        ImageError: the file can't be read, or is not an npz file.
    """
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):
                raise ImageError(f"{path} is not an npz file; {expected}")
            file.seek(0)
            yield np.load(file, allow_pickle=False)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    # If the archive is damaged, zipfile, zlib or numpy may raise any error.
    except Exception as error:
        if "allow_pickle" in str(error):
            raise ImageError(f"{path} holds an array of Python objects, which is not loaded; {expected}") from None
        raise ImageError(f"{path} is not a readable npz file ({type(error).__name__})") from None

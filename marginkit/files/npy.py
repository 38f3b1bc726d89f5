"""NumPy's files, which may come from anybody: plain numbers only, and no more than a file holds. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable, refuse_zip_bomb


def npz_names(path: Path) -> list[str]:
    """The names of all the arrays in an .npz file.

    Raises:
        MarginkitError: as `read_npz`.
    """
    return list(_opened(path, lambda arrays: [printable(name) for name in arrays.files]))


def read_npz(path: Path, keys: Sequence[str] = ("x", "y", "x_test", "y_test")) -> dict[str, np.ndarray]:
    """The arrays of these names of an .npz file, those that there are.

    Raises:
        MarginkitError: no such file, objects inside, or an archive that is broken or a bomb.
    """
    return dict(_opened(path, lambda arrays: {key: _array(arrays, key) for key in keys if key in arrays}))


def _opened(path: Path, read: Callable[[Any], Any]) -> Any:
    try:
        refuse_zip_bomb(path)
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return read(arrays)
    except MarginkitError:
        raise
    except FileNotFoundError:
        raise MarginkitError(f"no such file: {path}") from None
    except Exception as error:  # a broken archive fails in any of zipfile's, zlib's and NumPy's ways
        reason = printable(str(error).partition("\n")[0])
        raise MarginkitError(f"{path} is not an .npz file of plain arrays: {reason}") from error


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        ValueError, OSError, and whatever else NumPy raises where it is none.
    """
    with path.open("rb") as file:
        shape, _, dtype = read_header(file)
    if dtype.itemsize * math.prod(shape) > path.stat().st_size:
        raise ValueError(f"it says that it is {dtype} {shape}, and is too short for that")
    return np.asarray(np.load(path, allow_pickle=False))


def read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and type at the head of a .npy file."""
    version = np.lib.format.read_magic(file)
    known = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in known:
        raise ValueError(f"it is of .npy version {version}; expected 1.0 or 2.0")
    shape, fortran, dtype = known[version](file)
    if dtype.hasobject:
        raise ValueError(f"it holds {dtype}: objects, which only unpickling can read; expected numbers")
    return shape, fortran, dtype


def _array(arrays: Any, key: str) -> np.ndarray:
    """One array, if the archive holds as much of it as its header says: NumPy would make room first."""
    with arrays.zip.open(f"{key}.npy") as member:
        shape, _, dtype = read_header(member)
    held = arrays.zip.getinfo(f"{key}.npy").file_size
    if dtype.itemsize * math.prod(shape) > held:
        raise ValueError(f"{key} says it is {dtype} {shape}, but the file holds {held} bytes of it")
    return np.asarray(arrays[key])

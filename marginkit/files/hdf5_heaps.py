"""A look at an HDF5 file's bytes before libhdf5 reads them. Imports no torch.

Text attributes lie in global heaps. libhdf5 walks a heap from object to object by the sizes it finds there,
and where a damaged or hostile file says 0 it never arrives: fuzzing found that reading then hangs.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

from marginkit.errors import MarginkitError

MAGIC = b"\x89HDF\r\n\x1a\n"
WIDTHS_AT = {0: 13, 1: 13, 2: 9, 3: 9}  # by the superblock's version: where the widths of numbers stand
HEAP = b"GCOL\x01"
HEADER = 16  # bytes of a heap's header, and of an object's


def refuse_damaged_heaps(path: Path) -> None:
    """Refuses a file whose heaps can't be walked to their ends.

    Raises:
        MarginkitError: also where the file is not HDF5, or not as h5py writes it.
    """
    if os.path.getsize(path) < 96:
        raise MarginkitError(f"{path} is not a readable HDF5 file: it has {os.path.getsize(path)} bytes")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:8] != MAGIC:
            raise MarginkitError(f"{path} is not a readable HDF5 file: it does not begin like one")
        widths = WIDTHS_AT.get(data[8])
        if widths is None or data[widths : widths + 2] != b"\x08\x08":
            raise MarginkitError(
                f"{path} is not a readable HDF5 file: its superblock is not as h5py writes it"
            )
        here = data.find(HEAP)
        while here >= 0:
            if not _ends(data, here):
                raise MarginkitError(
                    f"{path} is not a readable HDF5 file: its heap at byte {here} is damaged"
                )
            here = data.find(HEAP, here + 1)


def _ends(data: mmap.mmap, start: int) -> bool:
    """Whether the heap's objects lead from its beginning to its end."""
    if start + HEADER > len(data):
        return False
    (size,) = struct.unpack_from("<Q", data, start + 8)
    here, end = start + HEADER, start + size
    if end > len(data):
        return False
    while here + HEADER <= end:
        index, length = struct.unpack_from("<H6xQ", data, here)
        needed = HEADER + -(-length // 8) * 8 if index else length  # index 0 is what is free
        if needed < HEADER or here + needed > end:
            return False
        here += needed
    return True

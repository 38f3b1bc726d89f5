"""A file that takes every write: HDF5 crashes the process after one that fails. Imports no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Unfailing:
    """A binary file for h5py that remembers the first error in place of raising it.

    After an error nothing more is written, and what is read are zeros.
    """

    def __init__(self, handle: int) -> None:
        """On an open file descriptor."""
        self.handle, self.position, self.size = handle, 0, 0
        self.error: OSError | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place."""
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        """The place."""
        return self.position

    def write(self, data: Any) -> int:
        """Writes at the place, or remembers why not."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.error is None:
                written = os.pwrite(self.handle, view[done:], self.position + done)
                if not written:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                done += written
        except OSError as error:
            self.error = error
        self.position += len(view)
        self.size = max(self.size, self.position)
        return len(view)

    def read(self, count: int = -1) -> bytes:
        """Reads at the place."""
        count = self.size - self.position if count < 0 else count
        found = b"" if self.error else os.pread(self.handle, count, self.position)
        self.position += count
        return found.ljust(count, b"\0")

    def truncate(self, size: int) -> int:
        """Sets the file's size."""
        try:
            if self.error is None:
                os.ftruncate(self.handle, size)
        except OSError as error:
            self.error = error
        self.size = size
        return size

    def flush(self) -> None:
        """Nothing is held back."""


@contextmanager
def unfailing(path: Path) -> Iterator[Unfailing]:
    """An empty file at `path`; raises at the end the error that its writing met.

    Raises:
        OSError: it can't be opened or written.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    file = Unfailing(handle)
    try:
        yield file
    finally:
        os.close(handle)
    if file.error is not None:
        raise file.error

"""Files that are whole or absent. Imports no torch."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marginkit.errors import MarginkitError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place in one rename if all goes well.

    Raises:
        MarginkitError: the folder does not exist or can't be written to, the disk is full, or `path` is a
            folder.
    """
    if path.is_dir():
        raise MarginkitError(f"can't write {path}: it is a folder; give a file's name")
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception) -> MarginkitError:
    """What to tell the user; libraries hide the reason in their own words."""
    number = getattr(error, "errno", None)
    known = (n for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if f"errno = {n}," in str(error))
    number = number or next(known, None)
    reason = os.strerror(number) if number else (str(error).splitlines() or [type(error).__name__])[0]
    return MarginkitError(f"can't write {path}: {reason}")


def require_absent(path: Path, overwrite: bool) -> None:
    """Refuses to write over a file unless told to."""
    if path.exists() and not overwrite:
        raise MarginkitError(f"{path} exists: choose another name, or add --overwrite")


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

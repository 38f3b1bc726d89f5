"""Files that are whole or absent. Imports no torch."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marginkit.errors import MarginkitError

LOCK_TRIES = 100


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place in one rename if all goes well.

    Where `path` is a link the file that it leads to is replaced. A file that was there keeps its mode. What
    is no file but takes bytes, such as a pipe or /dev/null, is written to at the end.

    Raises:
        MarginkitError: the folder does not exist or can't be written to, the disk is full, or `path` is a
            folder.
    """
    if path.is_dir():
        raise MarginkitError(f"can't write {path}: it is a folder; give a file's name")
    target = Path(os.path.realpath(path))
    stream = _is_stream(target)
    try:
        folder = tempfile.gettempdir() if stream else target.parent
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.", suffix=path.suffix)
    except OSError as error:
        raise cannot_write(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if stream:
            with temporary.open("rb") as file, target.open("wb") as out:
                shutil.copyfileobj(file, out)
            return
        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Refuses a second process that would write `path`; the lock dies with its process.

    The lock is on a file of its own beside it, taken away at the end. Who gets the lock of a file that was
    taken away meanwhile has locked nothing, and tries again.

    Raises:
        MarginkitError: another process has it, or the folder can't be written to.
    """
    target = Path(os.path.realpath(path))
    lock = target.with_name(f".{target.name}.lock")
    handle = _lock(path, lock)
    try:
        yield
    finally:
        if _is(handle, lock):
            lock.unlink(missing_ok=True)
        os.close(handle)


def _lock(path: Path, lock: Path) -> int:
    for _ in range(LOCK_TRIES):
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise cannot_write(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise MarginkitError(f"{path} is being written by another process: wait for it") from None
        except OSError:
            return handle  # a file system without locks
        if _is(handle, lock):
            return handle
        os.close(handle)
    raise MarginkitError(f"{path} can't be locked: {lock} is taken away again and again; try later")


def _is(handle: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def cannot_write(path: Path, error: Exception) -> MarginkitError:
    """What to tell the user; libraries hide the reason in their own words."""
    number = getattr(error, "errno", None)
    known = (n for n in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) if f"errno = {n}," in str(error))
    number = number or next(known, None)
    reason = os.strerror(number) if number else (str(error).splitlines() or [type(error).__name__])[0]
    return MarginkitError(f"can't write {path}: {reason}")


def require_absent(path: Path, overwrite: bool) -> None:
    """Refuses to write over a file unless told to."""
    if path.exists() and not overwrite and not _is_stream(path):
        raise MarginkitError(f"{path} exists: choose another name, or add --overwrite")


def sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

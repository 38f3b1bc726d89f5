"""What a file of weights holds, without running code; and in words what it is where it holds none."""

from __future__ import annotations

import argparse
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch  # noqa: F401  makes safe_open know torch
import torch
from safetensors import SafetensorError, safe_open

from marginkit.errors import MarginkitError
from marginkit.files.untrusted import json_object, refuse_zip_bomb

LFS = b"version https://git-lfs"
# What plain records of a training run hold beside tensors and numbers: none of them runs anything.
HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8", "?")},
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
]
KNOWN = {
    b"\x89HDF": "an HDF5 file, such as Keras writes",
    b"\x1f\x8b": "packed with gzip: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"GGUF": "a GGUF file",
    b"{": "a text file (JSON), no weights",
}


def read_plain(path: Path) -> dict[str, Any]:
    """The content of a safetensors or a PyTorch file, whichever it is by its first bytes.

    Raises:
        MarginkitError: it is empty, a web page, a pointer, a pickled object, or damaged.
    """
    with path.open("rb") as file:
        head = file.read(512)
    safe = path.suffix == ".safetensors" and not head.startswith(b"PK")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _read_safetensors(path)
    if what := _what_else(head):
        kind = "a safetensors file" if safe else "a checkpoint that loads safely"
        raise MarginkitError(f"{path} is not {kind}: {what}")
    return _read_safetensors(path) if safe else _read_torch(path)


def _what_else(head: bytes) -> str:
    """What a file without weights is, and what to do; empty where it may have some."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty: fetch or copy it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--", b"<script")):
        return "it is a web page, perhaps an error or a log-in: look at it, and fetch the file itself"
    if head.startswith(LFS):
        return "it is a pointer of git-LFS, not the weights: run `git lfs pull` where it comes from"
    return next((f"it is {what}" for magic, what in KNOWN.items() if head.startswith(magic)), "")


def _read_torch(path: Path) -> dict[str, Any]:
    refuse_zip_bomb(path)
    try:
        # a file, as torch goes by the endings of paths
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(HARMLESS):
            warnings.simplefilter("ignore")  # of old formats, which the user can't mend
            plain = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes the unpickler fail in any way
        raise MarginkitError(f"{path} is not a checkpoint that loads safely: {_reason(error)}") from error
    if not isinstance(plain, dict):
        raise MarginkitError(
            f"{path} holds a {type(plain).__name__}; expected a dict: a checkpoint or weights"
        )
    return plain


def _reason(error: Exception) -> str:
    """In our words: torch's end in the advice to load unsafely."""
    if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"it holds a pickled object of {named.group(1)}, whose loading would run code; ask for a file of"
            " the weights alone, torch.save(model.state_dict(), FILE)"
        )
    if "torchscript" in str(error).lower():
        return "it is a TorchScript program: give it as --model, with --trust"
    return "it is damaged, cut off, or of another format than PyTorch's"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("marginkit", "{}")
            about = json_object(text, "its metadata", path)
            return {**about, "state": {key: file.get_tensor(key) for key in file.keys()}}  # noqa: SIM118
    except MarginkitError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise MarginkitError(f"{path} is not a safetensors file: {error}") from error

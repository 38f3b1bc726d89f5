"""Which model this is, where no file says so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


def model_digest(model: nn.Module) -> str:
    """SHA-256, in hex, of a model's parameters and buffers: names, types, shapes and bytes, sorted by name.

    The same weights have the same digest on every device, in whatever order the module holds them. Numbers,
    texts and tensors of a module's `get_extra_state` count, in dictionaries and lists of any depth.
    """
    digest = hashlib.sha256()
    for name, value in _parts("", model.state_dict()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}={value!r}".encode())
    return digest.hexdigest()


def _parts(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Tensors and plain values with their paths, sorted within each dictionary; others are passed over."""
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _parts(f"{name}.{key}" if name else str(key), value[key])
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _parts(f"{name}.{i}", entry)
    elif isinstance(value, Tensor | bool | int | float | str | bytes):
        yield name, value

"""What tests share is as it was when the last of them ends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from marginkit.data.dataset import Data


def fingerprint(value: Any) -> str:
    """Of a network with its modes and gradients, of tensors, of a data set, or of a file's bytes."""
    said = hashlib.sha256()
    for part in _parts(value):
        tensor = isinstance(part, torch.Tensor)
        said.update(part.detach().numpy().tobytes() if tensor else repr(part).encode())
    return said.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, nn.Module):
        for name, module in value.named_modules():
            yield name, type(module), module.training, sorted(vars(module)), len(module._forward_hooks)
        for name, parameter in value.named_parameters():
            yield name, parameter.requires_grad, parameter.grad is None
        for name, tensor in value.state_dict().items():
            yield name, tensor.dtype
            yield tensor
    elif isinstance(value, Data):
        yield from (value.labels.tobytes(), value.fingerprint, value.inputs([0, len(value) - 1]))
    elif isinstance(value, Path):
        yield value.read_bytes()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            yield from _parts(part)
    else:
        yield value


@contextmanager
def unchanged(value: Any) -> Iterator[Any]:
    """Gives the value, and fails where somebody has changed it in place meanwhile."""
    before = fingerprint(value)
    yield value
    assert fingerprint(value) == before, f"a test changed a shared {type(value).__name__} in place"

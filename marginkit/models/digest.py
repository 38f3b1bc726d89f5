"""Which model this is, where no file says so."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def model_digest(model: nn.Module) -> str:
    """SHA-256, in hex, of a model's parameters and buffers: names, types, shapes and bytes, sorted by name.

    The same weights have the same digest on every device, in whatever order the module holds them. What a
    `state_dict` has beside tensors does not count.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""Inputs, labels and models as users give them, in the one form that methods and losses work with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.errors import MarginkitError


def as_inputs(x: Any) -> Float[Tensor, "n *d"]:
    """A floating-point tensor, a sample a row.

    Raises:
        MarginkitError: it is of whole numbers, or not a batch.
    """
    found = x if isinstance(x, Tensor) else _tensor(x, "the inputs")
    if not found.is_floating_point():
        raise MarginkitError(
            f"the inputs are {_name(found)}; expected floating-point numbers: convert and scale them"
        )
    if not found.ndim:
        raise MarginkitError("the inputs are a single number; expected a batch, a sample a row")
    return found


def as_labels(y: Any, x: Tensor) -> Int[Tensor, "n"]:
    """One class a sample, as whole numbers on the inputs' device.

    Whole numbers of any type, their column, and one-hot rows say the same and are taken.

    Raises:
        MarginkitError: there is not one label a sample, or labels are no classes.
    """
    found = y if isinstance(y, Tensor) else _tensor(y, "the labels")
    found = found.detach().to(x.device)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found.squeeze(1)
    if found.shape[:1] != x.shape[:1] or found.ndim not in (1, 2):
        raise MarginkitError(
            f"there are labels of shape {list(found.shape)} for {len(x)} samples; expected [{len(x)}], one a"
            " sample"
        )
    if found.ndim == 2:
        return _from_one_hot(found)
    if found.dtype is torch.long:
        return found
    whole = found.long() if not found.is_complex() else None
    if whole is None or not torch.equal(whole.to(found.dtype), found):
        raise MarginkitError(f"the labels are {_name(found)} and not all whole; expected classes, 0 and up")
    return whole


def as_batch_labels(y: Any, x: Tensor) -> Int[Tensor, "n"]:
    """The same for a loss, which is a mean over samples.

    Raises:
        MarginkitError: as `as_labels`, or there is no sample.
    """
    if not len(x):
        raise MarginkitError(f"the batch has shape {list(x.shape)}: it is empty; give at least one sample")
    return as_labels(y, x)


def refuse_quantised(model: nn.Module) -> None:
    """Refuses models of int8 modules: nothing can be searched where nothing has a gradient.

    Raises:
        MarginkitError: there is one; it is named.
    """
    for name, module in model.named_modules():
        kind = type(module)
        if ".quantized" in kind.__module__ or any(p.is_quantized for p in module.parameters(recurse=False)):
            raise MarginkitError(
                f"the model is quantised ({name or 'itself'} is a {kind.__module__}.{kind.__name__}) and has"
                " no gradients; expected floating-point layers: measure the model that it was made from"
            )


def _from_one_hot(rows: Tensor) -> Int[Tensor, "n"]:
    rows = rows.to(torch.float64)
    if not bool((((rows == 0) | (rows == 1)).all(1) & (rows.sum(1) == 1)).all()):
        raise MarginkitError(
            f"the labels are {list(rows.shape)} and not one-hot; expected one class a sample: take argmax(1)"
            " of soft labels"
        )
    return rows.argmax(1)


def _tensor(values: Any, what: str) -> Tensor:
    try:
        array = np.asarray(values)
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
    except (TypeError, ValueError, RuntimeError) as error:
        raise MarginkitError(
            f"{what} are a {type(values).__name__}; expected a tensor or an array"
        ) from error


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")

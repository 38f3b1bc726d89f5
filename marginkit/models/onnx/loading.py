"""The model that an ONNX file holds, checked against ONNX's own evaluator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marginkit.errors import MarginkitError, UsageError
from marginkit.models.onnx.network import Network, refuse_unknown
from marginkit.models.onnx.reading import File, Node, library, read_file
from marginkit.models.request import Found, Request

PROBABILITIES = ("Softmax", "LogSoftmax")
ROUNDING = 1e-4  # of the largest score: what float32 may do in another order


def load_onnx(asked: Request) -> Found:
    """The network of a file, for inputs of the data's shape and batches of any size.

    Raises:
        UsageError: there are options or weights for it.
        MarginkitError: it can't be read, has operations that are not known here, takes other inputs, or
            answers otherwise than ONNX's evaluator.
    """
    path = Path(asked.name)
    if asked.options or asked.weights:
        raise UsageError(f"{path} is an ONNX file with its own weights: it takes no --weights and no options")
    file, remarks = _without_probabilities(read_file(path))
    refuse_unknown(file)
    x = asked.look()
    try:
        model, more = _batched(file, x)
        _require_reference(file, model, x, more)
    except MarginkitError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise MarginkitError(
            f"{path} does not run on inputs of shape {list(x.shape[1:])}: {type(error).__name__}: {reason}"
        ) from error
    return Found(model, remarks=(*file.remarks, *remarks, *more))


def _without_probabilities(file: File) -> tuple[File, list[str]]:
    """The file up to its scores, where it ends in probabilities; and remarks on how it ends."""
    last = next((node for node in file.nodes if file.output in node.outputs), None)
    if last is None:
        raise MarginkitError(f"{file.path} computes nothing that is called {file.output!r}, its output")
    if last.op in PROBABILITIES:
        note = f"the last operation of {file.path}, {last.op}, is left out: margins are those of its logits"
        return replace(file, output=last.inputs[0]), [note]
    if last.op == "Relu":
        return file, [
            f"{file.path} ends in a Relu, and is measured so: where scores are 0, gradients are too"
        ]
    return file, []


def _batched(file: File, x: Tensor) -> tuple[Network, list[str]]:
    """A network for batches, if samples do not see each other in one; else one that runs them one by one."""
    count, remarks = x[0].numel(), []
    first, rest = (file.shape[0], file.shape[1:]) if file.shape else (None, ())
    if file.shape and _size(file.shape) == count and _size(rest) != count:
        shape = tuple(size or 1 for size in file.shape)
        remarks.append(_reshaped(file, x, shape) + ", one sample at a time: it has no axis of samples")
        return Network(file, shape, True, None).eval(), remarks
    if any(size is not None for size in rest) and not _fits(rest, x[0].shape):
        if _size(rest) != count:
            raise MarginkitError(
                f"{file.path} takes inputs of shape {_shown(rest)}; the data's are {list(x.shape[1:])}"
            )
        remarks.append(_reshaped(file, x, tuple(size or 1 for size in rest)))
        wanted: tuple[int, ...] | None = tuple(size or 1 for size in rest)
    else:
        wanted = None
    network = Network(file, wanted, False, first).eval()
    if _samples_alone(network, file, wanted, first, x):
        return network, remarks
    if first not in (None, 1):
        raise MarginkitError(
            f"{file.path} is written for batches of {first}, in which samples can't be told apart: export it"
            " for batches of 1, or of any size"
        )
    shape = (1, *(wanted or x.shape[1:]))
    remarks.append(f"{file.path} is run one sample at a time: written for batches of 1, it mixes samples")
    return Network(file, shape, True, None).eval(), remarks


def _samples_alone(
    network: Network, file: File, wanted: tuple[int, ...] | None, first: int | None, x: Tensor
) -> bool:
    """Whether three inputs have the scores together that each has alone, as the file is written."""
    trio = torch.cat([x[:1], x[:1].flatten(1).flip(1).reshape(x[:1].shape), x[:1] / 2])
    single = Network(file, wanted, False, None).eval() if first in (None, 1) else network
    with torch.no_grad():
        alone = torch.cat([single(row) for row in torch.split(trio, 1)])
        try:
            together = network(trio)
        except (RuntimeError, ValueError, IndexError):
            return False
    return together.shape == alone.shape and _close(together, alone)


def _require_reference(file: File, model: Network, x: Tensor, remarks: list[str]) -> None:
    """Compares the scores of a few inputs with ONNX's evaluator."""
    try:
        expected = _reference(file, model, x)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:120]
        remarks.append(f"ONNX's evaluator can't check {file.path}: {type(error).__name__}: {reason}")
        return
    with torch.no_grad():
        found = model(x)
    if found.shape != expected.shape or not _close(found, expected):
        far = float((found - expected).abs().max()) if found.shape == expected.shape else float("nan")
        if misread := sorted({node.op for node in file.nodes if _misread(node)}):
            remarks.append(
                f"ONNX's evaluator differs from {file.path} as it is read here, by {far:.3g}: it is known to"
                f" misread {', '.join(misread)}"
            )
            return
        raise MarginkitError(
            f"{file.path} answers otherwise than ONNX's own evaluator, by {far:.3g} in the scores: an"
            " operation is read wrongly here; please report it"
        )


def _misread(node: Node) -> bool:
    """Whether ONNX's evaluator (1.23) departs from the operation's definition, as onnxruntime does not."""
    pads = list(node.get("pads", ()))
    uneven = pads[: len(pads) // 2] != pads[len(pads) // 2 :]
    old = node.opset < 13 and node.op in PROBABILITIES
    return node.op == "LRN" or (node.op == "MaxPool" and uneven) or old


def _reference(file: File, model: Network, x: Tensor) -> Tensor:
    evaluator = library("onnx.reference").ReferenceEvaluator(file.proto)
    element = next(value for value in file.proto.graph.input if value.name == file.input)
    dtype: Any = library("onnx.helper").tensor_dtype_to_np_dtype(element.type.tensor_type.elem_type)
    fixed = file.shape[0] if file.shape and not model.alone else 1
    shape = (model.shape or (1, *x.shape[1:])) if model.alone else (-1, *(model.shape or x.shape[1:]))
    size = fixed or len(x)
    rows = []
    for i in range(0, len(x), size):
        part = x[[(i + j) % len(x) for j in range(size)]]
        given = part.numpy().astype(dtype).reshape(shape)
        with np.errstate(all="ignore"):  # of sigmoids far out
            (found,) = evaluator.run([file.output], {file.input: given})
        rows.append(np.asarray(found, np.float32).reshape(size, -1))
    return torch.from_numpy(np.concatenate(rows))[: len(x)]


def _close(a: Tensor, b: Tensor) -> bool:
    scale = float(b.abs().max()) if b.numel() else 0.0
    return torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING * max(scale, 1e-6))


def _size(shape: tuple[int | None, ...]) -> int:
    return torch.Size([size or 1 for size in shape]).numel()


def _fits(shape: tuple[int | None, ...], given: torch.Size) -> bool:
    return len(shape) == len(given) and all(a in (None, b) for a, b in zip(shape, given, strict=True))


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if size is None else str(size) for size in shape)}]"


def _reshaped(file: File, x: Tensor, shape: tuple[int, ...]) -> str:
    return f"inputs of shape {list(x.shape[1:])} are reshaped to {list(shape)}, as {file.path} takes them"

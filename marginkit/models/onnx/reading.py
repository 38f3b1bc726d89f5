"""An ONNX file as plain data: which operations it has, in which order, on which constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable
from marginkit.versions import optional_package

OLDEST = 7  # opset: before it, broadcasting was an attribute of each operation


class NotRead(Exception):  # noqa: N818
    """An operation is used in a way that is not read here; says which."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: its type; with its domain before a dot where that is not ONNX's own.
        name: of its first result, for messages.
        inputs, outputs: the values' names; empty where an optional one is not given.
        attributes: numbers, text, lists and tensors.
        opset: the version whose meaning it has.
        batch: the size of batch that the file is written for, where its reshapes have to be read so.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = OLDEST
    batch: int | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)


@dataclass(frozen=True)
class File:
    """What a file says.

    Attributes:
        path: of the file.
        proto: the model, for the reference evaluator.
        nodes: in an order in which they can run.
        constants: by name: weights and the like, in the file's own types.
        input, output: the names of the one input and of the scores.
        shape: of the input; None for sizes that are open.
        remarks: for the user.
    """

    path: Path
    proto: Any
    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    output: str
    shape: tuple[int | None, ...]
    remarks: tuple[str, ...] = ()


def library(name: str = "onnx") -> Any:
    """ONNX's own package, or a part of it."""
    return optional_package(name, "onnx")


def read_file(path: Path) -> File:
    """The graph of a file; weights in files of their own must lie beside it.

    Raises:
        MarginkitError: it is no ONNX file, or not of a network with one input.
    """
    proto = _parsed(path)
    _refuse_other_weights(path, proto)
    external = library("onnx.external_data_helper")
    try:
        external.load_external_data_for_model(proto, str(path.parent))
        if proto.functions:
            proto = library("onnx.inliner").inline_local_functions(proto)
    except Exception as error:
        raise MarginkitError(f"{path} can't be read: {_reason(error)}") from error
    graph, opset = proto.graph, _opset(path, proto)
    constants = {tensor.name: _tensor(path, tensor) for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or not graph.output:
        raise MarginkitError(
            f"{path} has {len(inputs)} inputs and {len(graph.output)} outputs; expected a network with one"
            " input and its scores"
        )
    remarks = []
    if len(graph.output) > 1:
        others = ", ".join(printable(value.name) for value in graph.output[1:])
        remarks.append(f"{path} has {len(graph.output)} outputs: the first is measured, not {others}")
    nodes = tuple(_node(path, node, opset) for node in graph.node)
    shape = tuple(
        entry.dim_value if entry.HasField("dim_value") and entry.dim_value > 0 else None
        for entry in inputs[0].type.tensor_type.shape.dim
    )
    return File(path, proto, nodes, constants, inputs[0].name, graph.output[0].name, shape, tuple(remarks))


def _parsed(path: Path) -> Any:
    onnx = library()
    if not path.is_file():
        raise MarginkitError(f"there is no file {path}")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:
        raise MarginkitError(f"{path} is no ONNX file, or a damaged one") from error
    if not proto.graph.node:
        raise MarginkitError(f"{path} has no operations; expected the ONNX file of a network")
    return proto


def _refuse_other_weights(path: Path, proto: Any) -> None:
    """Refuses weights that the file takes from elsewhere than its own folder."""
    tensors = [*proto.graph.initializer]
    owners = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    tensors += [attribute.t for node in owners for attribute in node.attribute if attribute.HasField("t")]
    for tensor in tensors:
        for entry in tensor.external_data:
            if entry.key != "location":
                continue
            beside = path.parent / entry.value
            if Path(entry.value).name != entry.value or beside.is_symlink() or not entry.value.isprintable():
                raise MarginkitError(
                    f"{path} takes weights from {ascii(entry.value)[:80]}; expected a plain file beside it"
                )
            if not beside.is_file():
                raise MarginkitError(f"{path} has its weights in {beside}, which is missing: put it there")


def _opset(path: Path, proto: Any) -> int:
    opset = max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    if opset < OLDEST:
        raise MarginkitError(
            f"{path} has opset {opset}; expected {OLDEST} or later: onnx.version_converter brings it up"
        )
    return int(opset)


def _node(path: Path, node: Any, opset: int) -> Node:
    helper = library("onnx.helper")
    attributes = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif hasattr(value, "data_type"):
            value = _tensor(path, value)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [
                entry.decode("utf-8", "replace") if isinstance(entry, bytes) else entry for entry in value
            ]
        attributes[attribute.name] = value
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}."
    name = next((output for output in node.output if output), node.name)
    return Node(
        domain + node.op_type, printable(name), tuple(node.input), tuple(node.output), attributes, opset
    )


def _tensor(path: Path, tensor: Any) -> Tensor:
    helper = library("onnx.numpy_helper")
    try:
        array = np.ascontiguousarray(helper.to_array(tensor)).reshape(tuple(tensor.dims))
        if array.dtype.kind not in "fiub":
            array = array.astype(np.float32)  # bfloat16 and the like, which NumPy has no letter for
        return torch.from_numpy(array.copy())
    except Exception as error:
        name = printable(tensor.name)
        raise MarginkitError(f"{path}: the values of {name} can't be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return printable(first)[:200]

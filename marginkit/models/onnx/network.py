"""The network of an ONNX file as a module: operation by operation, for batches of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.errors import MarginkitError
from marginkit.files.untrusted import printable
from marginkit.models.onnx.elementwise import ELEMENTWISE, Rule
from marginkit.models.onnx.layers import LAYERS
from marginkit.models.onnx.reading import File, Node, NotRead
from marginkit.models.onnx.shapes import SHAPES

OPERATIONS: dict[str, Rule] = {**ELEMENTWISE, **LAYERS, **SHAPES}
WEIGHTED = (
    "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "InstanceNormalization", "LayerNormalization",
    "MatMul", "PRelu",
)  # fmt: skip
PLACES = ("data", "weight", "bias", "mean", "variance")  # what constants are called
STATISTICS = 3  # from this input on, a BatchNormalization's are no weights
LARGEST = 2**28  # entries of what is computed from constants alone


class Operation(nn.Module):
    """One operation with the constants that it is used on: weights are parameters, others buffers."""

    def __init__(self, node: Node, constants: Mapping[int, Tensor]) -> None:
        """The constants by their places among its inputs; whole numbers stay on the CPU, where shapes are."""
        super().__init__()
        self.node, self.whole = node, {}
        self.names: dict[int, str] = {}
        for place, value in constants.items():
            if not value.is_floating_point():
                self.whole[place] = value
                continue
            weight = node.op in WEIGHTED and (node.op != "BatchNormalization" or place < STATISTICS)
            name = self.names[place] = PLACES[place] if place < len(PLACES) else f"input{place}"
            if weight:
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())

    def forward(self, *values: Tensor | None) -> Any:
        """The result, or a tuple of several; the values stand in the places that no constant has."""
        given: list[Tensor | None] = list(values)
        for place in sorted({*self.names, *self.whole}):
            constant = self.whole.get(place)
            given.insert(place, getattr(self, self.names[place]) if constant is None else constant)
        return OPERATIONS[self.node.op](self.node, *given)


@dataclass(frozen=True)
class Step:
    """Which operation runs on which values, and what its results are called."""

    operation: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    done_with: tuple[str, ...]


class Network(nn.Module):
    """Runs a graph.

    Attributes:
        shape: what one sample of the input is reshaped to, with the size of the batch that is run at once in
            front; None for as it is.
        alone: the graph takes one sample at a time.
    """

    def __init__(self, file: File, shape: tuple[int, ...] | None, alone: bool, batch: int | None) -> None:
        """Of a graph whose reshapes may be written for batches of one size.

        Args:
            file: what is to run.
            shape: of one sample, without the batch's size where the graph has that.
            alone: run samples one by one.
            batch: the size of batch that reshapes with this first size mean.
        """
        super().__init__()
        self.shape, self.alone = shape, alone
        self.input, self.output = file.input, file.output
        constants, nodes = _folded(file)
        self.steps = self._steps(nodes, constants, batch)

    def _steps(
        self, nodes: Sequence[Node], constants: Mapping[str, Tensor], batch: int | None
    ) -> tuple[Step, ...]:
        last = {name: i for i, node in enumerate(nodes) for name in node.inputs}
        last[self.output] = len(nodes)
        counted: Counter[str] = Counter()
        steps = []
        for i, node in enumerate(nodes):
            own = {place: constants[name] for place, name in enumerate(node.inputs) if name in constants}
            name = f"{node.op}_{counted[node.op]}"
            counted[node.op] += 1
            # a ReLU is one that others look for: linear regions are read off it
            relu = nn.ReLU() if node.op == "Relu" and not own else None
            self.add_module(name, relu or Operation(replace(node, batch=batch), own))
            given = tuple(name for name in node.inputs if name not in constants)
            over = tuple({name for name in given if name and last[name] == i})
            steps.append(Step(name, given, node.outputs, over))
        return tuple(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Scores [n, classes] for inputs [n, *d]."""
        if not self.alone:
            return self._run(x if self.shape is None else x.reshape(len(x), *self.shape)).reshape(len(x), -1)
        rows = [self._run(x[i : i + 1].reshape(self.shape or (1, *x.shape[1:]))) for i in range(len(x))]
        return torch.cat([row.reshape(1, -1) for row in rows])

    def _run(self, x: Tensor) -> Tensor:
        values: dict[str, Any] = {self.input: x}
        for step in self.steps:
            given = [values[name] if name else None for name in step.inputs]
            found = getattr(self, step.operation)(*given)
            values.update(zip(step.outputs, found if isinstance(found, tuple) else (found,), strict=False))
            for name in step.done_with:
                del values[name]
        scores: Tensor = values[self.output]
        return scores


def refuse_unknown(file: File) -> None:
    """Names the operations that are not read here, all at once, and values that come from nowhere."""
    missing: dict[str, str] = {}
    for node in file.nodes:
        if node.op not in OPERATIONS and node.op != "Constant":
            missing.setdefault(node.op, node.name)
    if missing:
        shown = ", ".join(f"{printable(op)} ({name})" for op, name in list(missing.items())[:8])
        raise MarginkitError(
            f"{file.path} has operations that are not read here: {shown}; write the model in PyTorch, and"
            " give it as module:factory"
        )
    known = {"", file.input, *file.constants}
    for node in file.nodes:
        if absent := [name for name in node.inputs if name not in known]:
            raise MarginkitError(
                f"{file.path}: {node.op} ({node.name}) needs {absent[0]!a}, which nothing computes before"
            )
        known.update(node.outputs)


def _folded(file: File) -> tuple[dict[str, Tensor], list[Node]]:
    """Constants, with those that are computed from others; and the operations that the scores depend on."""
    constants = {name: _single(value) for name, value in file.constants.items()}
    nodes = []
    for node in file.nodes:
        if node.op == "Constant":
            constants[node.outputs[0]] = _single(_constant(file, node))
        elif all(name in constants for name in node.inputs if name):
            given = [constants[name] if name else None for name in node.inputs]
            found = OPERATIONS[node.op](node, *given)
            for name, value in zip(
                node.outputs, found if isinstance(found, tuple) else (found,), strict=False
            ):
                if value.numel() > LARGEST:
                    raise NotRead(f"a constant of shape {list(value.shape)}")
                constants[name] = value.contiguous()
        else:
            nodes.append(node)
    needed, kept = {file.output}, []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return constants, kept[::-1]


def _single(value: Tensor) -> Tensor:
    """Floats in the network's precision."""
    return value.float() if value.is_floating_point() else value


def _constant(file: File, node: Node) -> Tensor:
    for name, value in node.attributes.items():
        if name.startswith("value") and not isinstance(value, str):
            return value if isinstance(value, Tensor) else torch.tensor(value)
    raise MarginkitError(f"{file.path} has a constant ({node.name}) that holds no numbers")

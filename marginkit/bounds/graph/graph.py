"""A model as a list of operations that bounds know, or the name of the operation they do not."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from marginkit.bounds.graph.call import Call, Op, Symbol, symbols
from marginkit.bounds.graph.functions import from_function
from marginkit.bounds.graph.modules import from_module
from marginkit.bounds.graph.ops import Affine, Nonlinear, Shape
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.models.architectures import Normalize


@dataclass(frozen=True, eq=False)
class Node:
    """One operation's result.

    Attributes:
        op: None for the input.
        inputs: positions of what it is computed from.
        shape: of one sample.
        mixes: 0 where each entry depends on one entry of the input, 1 where intervals are still exact, 2
            where they may not be.
        affine: nothing nonlinear lies between it and the input.
    """

    op: Op | None
    inputs: tuple[int, ...]
    shape: Shape
    mixes: int
    affine: bool


@dataclass(frozen=True, eq=False)
class Graph:
    """The operations of a model in order; the first node is the input, the last one the scores."""

    nodes: tuple[Node, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The scores."""
        values = [x]
        for node in self.nodes[1:]:
            assert node.op is not None
            values.append(node.op(*(values[i] for i in node.inputs)))
        return values[-1]


def nonlinear(op: Op | None) -> TypeGuard[Nonlinear]:
    """Whether lines are needed to go through it."""
    return hasattr(op, "lines")


def affine(op: Op | None) -> TypeGuard[Affine]:
    """Whether it has a transpose."""
    return hasattr(op, "transpose")


def trace(model: nn.Module, x: Tensor, *, check: bool = True) -> Graph:
    """The model in eval mode as a graph, its shapes those of the batch x.

    Where gradients are on, the graph's operations hold the model's parameters and can be differentiated.
    With `check` its scores of x are compared with the model's.

    Raises:
        Unsupported: torch.fx can't follow the model, it uses an operation that has no bounds, mixes
            samples, or the graph answers with other scores than the model.
    """
    try:
        traced = _Tracer().trace(model)
    except Exception as error:
        raise Unsupported(f"a forward pass that torch.fx can't trace ({_first_line(error)})") from error
    pair = torch.cat([x[:1], x[:1]])
    builder = _Builder(fx.GraphModule(model, traced))
    builder.run(pair)
    graph = Graph(tuple(builder.found))
    if not check:
        return graph
    with torch.no_grad():
        ours, theirs = graph(x), model(x.clone())
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise Unsupported("something that its traced graph leaves out (the graph gives other scores)")
    return graph


def doubled(model: nn.Module) -> nn.Module:
    """A float64 copy in eval mode whose parameters ask for no gradient."""
    return copy.deepcopy(model).double().eval().requires_grad_(False)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return isinstance(module, Normalize) or super().is_leaf_module(module, qualified_name)


class _Builder(fx.Interpreter):
    """Runs the model on two equal samples, and notes what each operation is."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: list[Node] = []
        self.position: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Its value, as ever; what depends on the input is noted down."""
        depends = any(source in self.position for source in n.all_input_nodes)
        arguments = fx.node.map_arg((n.args, n.kwargs), self._value) if depends else ((), {})
        value = super().run_node(n)
        if n.op == "placeholder":
            if self.found:
                raise Unsupported("a forward pass with several inputs")
            self.position[n] = self._append(Node(None, (), tuple(value.shape[1:]), 0, True))
        elif n.op == "output":
            if not isinstance(n.args[0], fx.Node) or n.args[0] not in self.position:
                raise Unsupported("an output that is not one tensor computed from the input")
            self.found = self.found[: self.position[n.args[0]] + 1]
        elif depends and isinstance(value, Tensor):
            self.position[n] = self._operation(n, *arguments, value)
        elif depends and not _plain(value):
            raise Unsupported(f"{n.target}, which gives a {type(value).__name__}")
        return value

    def _value(self, node: fx.Node) -> Any:
        return Symbol(self.position[node]) if node in self.position else self.env[node]

    def _operation(self, n: fx.Node, args: Any, kwargs: Any, value: Tensor) -> int:
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))
        if not value.is_floating_point() or value.shape[:1] != (2,):
            raise Unsupported(f"{name}, which does not give each sample numbers of its own")
        inputs = tuple(symbol.position for symbol in symbols([args, kwargs]))
        sources = [self.found[i] for i in inputs]
        call = Call(name, args, dict(kwargs), tuple(source.shape for source in sources), value)
        op = (
            from_module(self.fetch_attr(str(n.target)), call)
            if n.op == "call_module"
            else from_function(n.target, call)
        )
        if op is None:
            return inputs[0]
        mixes = max(source.mixes for source in sources) + (op.mixes if affine(op) else 2)
        straight = affine(op) and all(source.affine for source in sources)
        return self._append(Node(op, inputs, call.shape, min(2, mixes), straight))

    def _append(self, node: Node) -> int:
        self.found.append(node)
        return len(self.found) - 1


def _plain(value: Any) -> bool:
    return isinstance(value, int | float | bool | torch.Size | torch.dtype | torch.device) or (
        isinstance(value, tuple) and all(map(_plain, value))
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]

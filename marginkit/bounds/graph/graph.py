"""A model as a list of operations that bounds know, or the name of the operation they do not."""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.bounds.graph.call import Node, affine, nonlinear
from marginkit.bounds.graph.recorder import record
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.guard.answer import scores_of

SAME = 1e-9  # of the scores' range
LAST_DIGITS = 2**-48  # of a score: sixteen roundings

__all__ = ["Graph", "Node", "affine", "doubled", "nonlinear", "require_same", "rounded", "trace"]


@dataclass(frozen=True, eq=False)
class Graph:
    """The operations of a model in order; the first node is the input, the last one the scores."""

    nodes: tuple[Node, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The scores."""
        values = [x]
        for node in self.nodes[1:]:
            assert affine(node.op) or nonlinear(node.op)
            values.append(node.op(*(values[i] for i in node.inputs)))
        return values[-1]


def trace(model: nn.Module, x: Tensor, *, check: bool = True) -> Graph:
    """The model in eval mode as a graph, its shapes those of the batch x.

    Where gradients are on, the graph's operations hold the model's parameters and can be differentiated.
    With `check` its scores of x are compared with the model's.

    Raises:
        Unsupported: the scores depend on an operation that has no bounds, on values by way of control flow,
            on other samples, or the graph answers with other scores than the model.
    """
    graph = Graph(record(model, torch.cat([x[:1], x[:1]])))
    if check:
        require_same(graph, model, x)
    return graph


def require_same(graph: Graph, model: nn.Module, x: Tensor) -> None:
    """Compares the graph's scores with the model's.

    What a proof in float64 says of the graph has to hold for the model, so the two may differ by rounding and
    no more. Both add the same numbers in another order, which costs some 1e-14 of the largest number on the
    way; a proof leaves 1e-9 of the scores' range for it (`certificate.ROUNDING`), and so does this test. The
    range is that of the gaps to the first score, for a constant that is added to all scores says nothing, and
    a masked class must not make the others' range larger: each score is held to its own gap and to the
    median one. In float32 the tolerance is as much wider as its numbers are coarser.

    Raises:
        Unsupported: they differ.
    """
    with torch.no_grad():
        theirs = scores_of(model(x.clone()), len(x))  # it may write into its input
        try:
            ours = graph(x)
        except (RuntimeError, TypeError, ValueError, IndexError):
            ours = None
    if ours is None or ours.shape != theirs.shape:
        raise Unsupported("a forward pass that depends on the size of the batch")
    rounding = torch.finfo(theirs.dtype).eps / torch.finfo(torch.float64).eps
    gaps = (theirs.amax(1, keepdim=True) - theirs).double()
    usual = gaps.median(1).values.nan_to_num(0, 0, 0).amax()
    size = theirs.abs() + theirs.abs().amin(1, keepdim=True)
    allowed = rounding * (SAME * (gaps + usual) + LAST_DIGITS * size)
    if not bool(
        (((ours - theirs).abs() <= allowed) | (ours == theirs) | (ours.isnan() & theirs.isnan())).all()
    ):
        raise Unsupported("something that its traced graph leaves out (the graph gives other scores)")


def rounded(graph: Graph, dtype: torch.dtype) -> Graph:
    """The same operations with numbers of another precision."""

    def op(given: Any) -> Any:
        if not is_dataclass(given):
            return given
        tensors = {field.name: getattr(given, field.name) for field in fields(given)}
        changed = {
            k: t.to(dtype) for k, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point()
        }
        return replace(given, **changed) if changed else given  # type: ignore[type-var]

    return Graph(tuple(replace(node, op=op(node.op)) for node in graph.nodes))


def doubled(model: nn.Module) -> nn.Module:
    """A float64 copy in eval mode whose parameters ask for no gradient.

    Raises:
        Unsupported: the model can't be copied.
    """
    try:
        return copy.deepcopy(model).double().eval().requires_grad_(False)
    except (RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0][:120]
        raise Unsupported(f"a model that can't be copied ({first})") from error

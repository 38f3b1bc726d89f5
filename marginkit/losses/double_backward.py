"""What stands in the way of differentiating a gradient, said before it fails or is silently wrong."""

from __future__ import annotations

from torch import Tensor

from marginkit.errors import MarginkitError


def require_double_backward(gradient: Tensor) -> None:
    """Refuses gradients that some operation of the model can't differentiate again."""
    seen, stack = set(), [gradient.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("NotImplemented"):
            raise MarginkitError(
                "differentiate_norm=True needs an operation's second derivative that PyTorch lacks (fused"
                " attention is one: use the math backend, torch.nn.attention.sdpa_kernel); or use"
                " differentiate_norm=False"
            )
        stack.extend(parent for parent, _ in node.next_functions)

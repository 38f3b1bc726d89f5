"""The forum's question: why a loop that reads norms through `.backward()` does not train."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import load

GAMMA, ALPHA = 200.0, 2.0


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def differences(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    p = model(x).softmax(1)
    others = p.scatter(1, y.unsqueeze(1), -torch.inf).topk(9).indices
    return p.gather(1, y.unsqueeze(1)) - p.gather(1, others)


def clipped(difference: Tensor, norms: Tensor) -> Tensor:
    distance = difference / (norms.detach() + 1e-8)
    return (GAMMA - distance.clamp(min=GAMMA * (1 - ALPHA))).clamp(min=0).mean()


def by_autograd(difference: Tensor, x: Tensor) -> Tensor:
    found = [torch.autograd.grad(d.sum(), x, retain_graph=True)[0] for d in difference.unbind(1)]
    return torch.stack([g.flatten(1).norm(dim=1) for g in found], 1)


def by_backward(difference: Tensor, x: Tensor, *, alias: bool = False, zero: bool = True) -> Tensor:
    """As in the forum: norms read from `x.grad`, whether copied or kept by reference, zeroed or not."""
    found = []
    for d in difference.unbind(1):
        d.backward(torch.ones_like(d), retain_graph=True)
        found.append(x.grad if alias else x.grad.clone())
        if zero:
            x.grad.zero_()
    return torch.stack([g.flatten(1).norm(dim=1) for g in found], 1)


def flat_grad(model: nn.Module) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in model.parameters()]
    )


def first_batch() -> tuple[Tensor, Tensor]:
    _, x, y = next(batches(load("digits", Source(split="train")), 16))
    return x.requires_grad_(), y


def test_backward_pollutes_every_parameters_gradient_with_its_opposite():
    model, (x, y) = network(), first_batch()
    difference = differences(model, x, y)
    right_norms = by_autograd(difference, x)
    assert not flat_grad(model).any(), "autograd.grad writes to no parameter"
    clipped(difference, right_norms).backward()
    right = flat_grad(model)

    model.zero_grad()
    x = x.detach().requires_grad_()
    difference = differences(model, x, y)
    norms = by_backward(difference, x)
    torch.testing.assert_close(norms, right_norms)
    extra = flat_grad(model).clone()
    clipped(difference, norms).backward()
    torch.testing.assert_close(flat_grad(model), right + extra)
    assert torch.cosine_similarity(extra, right, 0) < -0.9


def test_kept_references_are_all_the_last_gradient():
    model, (x, y) = network(), first_batch()
    zeroed = by_backward(differences(model, x, y), x, alias=True, zero=True)
    assert not zeroed.any(), "zeroing one zeroes all"
    x = x.detach().requires_grad_()
    summed = by_backward(differences(model, x, y), x, alias=True, zero=False)
    assert (summed == summed[:, :1]).all(), "nine times the norm of the sum"


def train(norms, *, clear: bool, steps: int = 180) -> tuple[float, float]:
    """Mean loss and accuracy over the last 30 steps."""
    model, data = network(), load("digits", Source(split="train"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).repeat(2)[: 16 * steps]
    log = []
    for _, x, y in batches(data, 16, positions=order.tolist()):
        x.requires_grad_()
        optimizer.zero_grad()
        difference = differences(model, x, y)
        found = norms(difference, x)
        if clear:
            optimizer.zero_grad()
        loss = clipped(difference, found)
        loss.backward()
        optimizer.step()
        log.append((loss.item(), (difference > 0).all(1).float().mean().item()))
    last = torch.tensor(log[-30:]).mean(0)
    return last[0].item(), last[1].item()


@pytest.mark.parametrize("alias", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_the_polluted_loop_does_not_train_zeroing_or_not(alias, zero):
    loss, right = train(lambda d, x: by_backward(d, x, alias=alias, zero=zero), clear=False)
    assert right < 0.2
    assert loss > 0.9 * GAMMA


def test_the_loop_with_autograd_grad_trains():
    loss, right = train(by_autograd, clear=False)
    assert right > 0.5
    assert loss < GAMMA

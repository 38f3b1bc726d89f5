"""Run by test_processes.py in two processes: what each finds is held against one process's."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.distributed import processes
from marginkit.losses import LOSSES
from marginkit.measurement.measure import measure
from marginkit.methods.fixed_radius import FGSM
from marginkit.models.architectures import ARCHITECTURES
from marginkit.training.ddp import shared_objective
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

torch.set_num_threads(1)
CASES = [
    *((name, {}) for name in LOSSES),
    ("large-margin", {"differentiate_norm": True, "top_k": None, "aggregate": "sum", "cross_entropy": 0.5}),
]


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def check_gradients(ranks, data):
    """In a function, so that what DistributedDataParallel made is gone before the process group is."""
    x, y = data.inputs(list(range(24))).double(), torch.from_numpy(data.labels[:24])
    for name, options in CASES:
        torch.manual_seed(0)
        model = ARCHITECTURES["mlp"](hidden=(12,))(data.shape, 10).double()
        loss = LOSSES[name](**options)
        loss = loss.at(0.7) if hasattr(loss, "at") else loss
        shared = shared_objective(model, ranks)
        torch.manual_seed(1)  # of adversarial losses' random starts
        whole = gradients(model, loss(model, x, y))
        torch.manual_seed(1)
        mine = gradients(model, shared(loss, x[ranks.rank :: 2], y[ranks.rank :: 2]))
        for a, b in zip(mine, whole, strict=True):
            assert (a - b).abs().max() <= 1e-6 * b.abs().max().clamp(min=1e-3), (name, options)
        assert any(g.abs().max() > 0 for g in whole), name


data = load("digits", Source(split="train"))
folder = Path(sys.argv[1])
run = {
    "architecture": "mlp", "architecture_options": {"hidden": (12,)}, "loss": "large-margin",
    "recipe": Recipe(epochs=2, batch_size=100),
}  # fmt: skip
with processes() as ranks:
    assert ranks.world == 2
    check_gradients(ranks, data)
    train(data, folder / "two.pt", **run, ranks=ranks)
    shares = ranks.share(range(7))
    taken = [next(shares)]  # each takes one before either takes a second
    ranks.wait()
    taken += shares
    assert (ranks.total(len(taken)), ranks.total(sum(taken))) == (7, 21)
    assert ranks.total(ranks.rank + 1) == 3
    for count in (5, 3):  # the counter of the first may be there still
        assert ranks.total(len(list(ranks.share(range(count))))) == count
    if ranks.first:  # a loop of somebody's own: no other process is asked for its rows
        x, y = data.inputs(list(range(9))), torch.from_numpy(data.labels[:9])
        net = ARCHITECTURES["mlp"](hidden=(12,))(data.shape, 10)
        gradients(net, LOSSES["large-margin"](gamma="auto")(net, x, y))
    ranks.wait()
    with processes() as same:  # the group is there already: it is used and left
        assert (same.rank, same.world) == (ranks.rank, ranks.world)
    few = load("digits")
    torch.manual_seed(0)
    net = ARCHITECTURES["mlp"](hidden=(12,))(few.shape, 10)
    for name in ("first.h5", "second.h5"):
        found = measure(net, few, {"fgsm": FGSM()}, ["l2"], limit=20, batch_size=4, out=folder / name)
        assert len(found) == 20
with processes() as again:  # a second group in the same program
    assert again.total(1.0) == 2
    assert again.total(len(list(again.share(range(4))))) == 4
if ranks.first:
    train(data, folder / "one.pt", **run)

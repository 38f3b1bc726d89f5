"""What several methods and norms need of the clean inputs is computed once a batch."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from quickly import measure
from torch import nn

from marginkit.data.sources import load
from marginkit.guard.passes import Meter
from marginkit.guard.sharing import once, sharing
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.nearest import Nearest
from marginkit.norms import NORMS

METHODS = {"first_order": FirstOrder(), "nearest": Nearest("fast")}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()


def counted(model, methods, norms):
    """The table of twelve digits, the first eight of them in a batch, and its passes."""
    meter = Meter()
    with meter.counting(model):
        table = measure(model, load("digits"), methods, norms, first=12, batch_size=8, checks=0)
    return table, meter.total


@pytest.mark.quick
def test_methods_and_norms_together_take_fewer_passes_and_answer_the_same(model):
    table, passes = counted(model, METHODS, list(NORMS))
    alone = [
        (name, norm, *counted(model, {name: METHODS[name]}, [norm])) for name in METHODS for norm in NORMS
    ]
    for name, norm, part, _ in alone:
        for column in (c for c in part.columns if c.name.startswith(f"{name}.{norm}")):
            np.testing.assert_array_equal(table[column.name].distance, column.distance)
            np.testing.assert_array_equal(table[column.name].rival, column.rival)
    apart = {name: [spent for other, _, _, spent in alone if other == name] for name in METHODS}
    assert passes < sum(apart["nearest"]) + max(apart["first_order"])  # all norms' estimates from one


def test_it_holds_for_one_model_and_equal_inputs_until_the_end(model):
    x, asked = torch.rand(3, 2), []

    def ask(what="a", model=model, *inputs):
        return once(what, model, inputs or (x,), lambda: asked.append(what) or len(asked))

    assert [ask(), ask()] == [1, 2]
    with sharing():
        assert [ask(), ask(), ask("a", model, x.clone())] == [3, 3, 3]
        others = (
            ("b", model, x), ("a", copy.deepcopy(model), x), ("a", model, x.double()), ("a", model, x[:2]),
            ("a", model, x, x), ("a", model, x + 1),
        )  # fmt: skip
        assert [ask(*other) for other in others] == [4, 5, 6, 7, 8, 9]
        with sharing():
            assert ask() == 10
        assert ask() == 3
        x += 1  # what was kept is a copy
        assert ask() == 9
    assert ask() == 11


def test_a_mask_makes_another_estimate(model):
    x, y = torch.rand(4, 1, 8, 8), torch.zeros(4, dtype=torch.long)
    from marginkit.types import Threat

    half = torch.arange(64).view(1, 8, 8) % 2 == 0
    threats = [Threat("l2"), Threat("l2", mask=half), Threat("l2", mask=~half)]
    apart = [FirstOrder()(model, x, y, threat).distance for threat in threats]
    with sharing():
        together = [FirstOrder()(model, x, y, threat).distance for threat in threats]
    for one, other in zip(apart, together, strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(apart[0], apart[1])

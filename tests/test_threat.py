"""What may be done to an input: what is no threat is refused in one sentence, before anything is measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closed_form import linear
from in_turn import in_turn

from marginkit.errors import UsageError
from marginkit.methods import METHODS
from marginkit.methods.constraints import read_mask
from marginkit.norms import L2, NORMS
from marginkit.types import Threat

pytestmark = pytest.mark.quick

FEATURES = 6


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_may_be_its_name(name):
    assert Threat(name) == Threat(NORMS[name])
    assert Threat(name).norm is NORMS[name]


@pytest.mark.parametrize("norm", ["l3", "L2", "", 2])
def test_an_unknown_norm_is_refused(norm):
    with pytest.raises(UsageError, match=r"unknown norm .*; choose from l1, l2, linf"):
        Threat(norm)


@pytest.mark.parametrize(
    ("low", "high"),
    [(1, 0), (0.5, 0.5), (torch.tensor(2.0), 1.0), (torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]))],
    ids=["turned round", "empty", "tensor", "one feature"],
)
def test_a_box_without_inside_is_refused(low, high):
    with pytest.raises(UsageError, match=r"the box runs from .*: give a lower bound below the upper one"):
        Threat(L2, low, high)


@pytest.mark.parametrize(
    "bound", ["zero", float("nan"), object(), [0.0, None], torch.tensor([1.0, torch.nan])]
)
def test_a_bound_that_is_no_number_is_refused(bound):
    with pytest.raises(UsageError, match=r"low is .*; expected a number, one a feature, or None"):
        Threat(L2, bound, 1.0)


@pytest.mark.parametrize("given", [np.zeros(FEATURES), [0.0] * FEATURES, torch.zeros(FEATURES)])
def test_bounds_of_each_feature_are_a_tensor_an_array_or_a_list(given):
    x = torch.rand(4, FEATURES)
    assert Threat(L2, given, 1.0).contains(x).all()
    torch.testing.assert_close(Threat(L2, given, 1.0).room(x)[0], -x)


@pytest.mark.parametrize("one", [1, 1.0, np.float32(1), np.int64(1), np.array(1.0)], ids=repr)
def test_a_bound_is_a_number_of_any_library(one):
    threat = Threat(L2, 0 * one, one, levels=4)
    torch.testing.assert_close(threat.on_grid(torch.tensor([[0.3, 0.9]])), torch.tensor([[0.25, 1.0]]))


OTHER = [(5,), (4, FEATURES), (1, 1, FEATURES), (FEATURES, 1)]


@pytest.mark.parametrize(
    ("name", "what", "shape"), in_turn(METHODS, ["low", "high", "mask"], turns=OTHER), ids=str
)
def test_bounds_and_masks_of_another_shape_are_refused_by_every_method(name, what, shape):
    case = linear(3)
    given = {
        "low": torch.full(shape, -9.0), "high": torch.full(shape, 9.0),
        "mask": torch.ones(shape, dtype=torch.bool),
    }[what]  # fmt: skip
    threat = Threat(L2, **{"low": None, "high": None, what: given})
    with pytest.raises(UsageError, match=r"the threat's \w+ has shape .*: give one entry a feature"):
        METHODS[name]()(case.model, case.x[:4], case.y[:4], threat)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (torch.tensor([0.5, 1.0]), "float32 other than 0 and 1"),
        (np.array([0, 2]), "int64 other than 0 and 1"),
        (["yes", "no"], "mask is list"),
        (torch.zeros(3, dtype=torch.bool), "lets no feature change"),
    ],
    ids=["share", "two", "words", "none"],
)
def test_what_is_no_mask_is_refused(mask, reason):
    with pytest.raises(UsageError, match=f"{reason}; expected true where a feature may change"):
        Threat(L2, mask=mask)


@pytest.mark.parametrize(
    "mask",
    [np.array([1, 0], np.uint8), [True, False], torch.tensor([1.0, 0.0])],
    ids=["numpy", "list", "float"],
)
def test_a_mask_of_ones_and_noughts_is_one_of_truth_values(mask):
    x = torch.rand(3, 2)
    given, plain = Threat(L2, mask=mask), Threat(L2, mask=torch.tensor([True, False]))
    for one, other in zip(given.room(x), plain.room(x), strict=True):
        torch.testing.assert_close(one, other)


def test_a_mask_file_that_frees_nothing_says_so(tmp_path):
    np.save(tmp_path / "none.npy", np.zeros(4, bool))
    with pytest.raises(Exception, match="lets no feature change: set true or 1 where one may"):
        read_mask(tmp_path / "none.npy", (4,))

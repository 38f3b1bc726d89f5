"""What margins are made of: differences of scores, and the distances that their linearisation predicts."""

from __future__ import annotations

import pytest
import torch
from closed_form import linear
from torch.testing import assert_close

from marginkit.logits import differences, linearised_distance, right, rivals

pytestmark = pytest.mark.quick

NAN, INF = torch.nan, torch.inf


def test_the_linearised_distance_is_a_linear_classifiers(norm):
    case = linear(4)
    scores = case.model(case.x)
    rival = rivals(scores, case.y, None)
    weight = case.model.weight
    normals = weight[case.y].unsqueeze(1) - weight[rival]
    length = norm.dual.length(normals.flatten(0, 1)).view(rival.shape)
    found = linearised_distance(differences(scores, case.y, rival), length).amin(1)
    assert_close(found.detach(), case.distance(norm))


def test_a_tie_is_at_distance_zero_whatever_its_gradient():
    length = torch.tensor([0.0, NAN, INF, 2.0])
    assert linearised_distance(torch.zeros(4), length).tolist() == [0, 0, 0, 0]
    assert linearised_distance(torch.zeros(4), torch.zeros(4), epsilon=1e-6).tolist() == [0, 0, 0, 0]


def test_without_a_gradient_the_boundary_is_infinitely_far_away():
    difference = torch.tensor([1.0, -1.0])
    assert linearised_distance(difference, torch.zeros(2)).tolist() == [INF, -INF]
    assert_close(linearised_distance(difference, torch.zeros(2), epsilon=0.5), torch.tensor([2.0, -2.0]))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_its_derivative_is_one_over_the_length_at_a_tie_as_elsewhere(value):
    difference = torch.full((1,), value, requires_grad=True)
    linearised_distance(difference, torch.tensor([4.0])).backward()
    assert difference.grad.item() == 0.25


def test_samples_are_right_where_their_label_has_the_largest_score():
    scores = torch.tensor([[2.0, 1.0], [2.0, 1.0], [-1.0, 0.0]])
    assert right(scores, torch.tensor([0, 1, 1])).tolist() == [True, False, True]

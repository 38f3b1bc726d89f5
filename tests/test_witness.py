"""Nothing a search returns is believed."""

import pytest
import torch
from closed_form import Function, linear
from torch.testing import assert_close

from marginkit.kinds import Status
from marginkit.methods.search.verification import bracket, shorten
from marginkit.norms import L2
from marginkit.types import Threat

pytestmark = pytest.mark.quick

CASE = linear(2)
THREAT = Threat(L2, -5.0, 5.0)


def across(scale: float) -> torch.Tensor:
    """Points `scale` times as far as the boundary, straight ahead."""
    normal = CASE.model.weight[1] - CASE.model.weight[0]
    sign = torch.where(CASE.y == 0, 1.0, -1.0).unsqueeze(1)
    return (CASE.x + scale * CASE.distance(L2).unsqueeze(1) * sign * normal / normal.norm()).detach()


def judged(witness: torch.Tensor, model=CASE.model):
    return bracket(model, CASE.x, CASE.y, THREAT, lambda *_: witness)


def test_a_true_witness_counts():
    found = judged(across(1.01))
    assert (found.status == Status.OK).all()
    assert_close(found.upper, 1.01 * CASE.distance(L2))


@pytest.mark.parametrize(
    "witness",
    [CASE.x, across(0.99), across(1 + 1e-16), torch.full_like(CASE.x, torch.nan)],
    ids=["the input itself", "not across", "across by rounding only", "nothing"],
)
def test_what_is_not_across_does_not_count(witness):
    found = judged(witness)
    assert (found.status == Status.EXHAUSTED).all()
    assert found.upper.isinf().all()
    assert found.witness.isnan().all()


def test_points_outside_the_box_are_judged_where_the_box_puts_them():
    far = across(1e3)
    found = judged(far)
    kept = found.status == Status.OK
    assert kept.any()
    assert_close(found.witness[kept], far.clamp(-5, 5)[kept])
    assert_close(found.upper[kept], L2.length(far.clamp(-5, 5) - CASE.x)[kept])


def test_what_holds_at_one_batch_size_only_is_no_witness():
    def scores(x):
        wrong = CASE.model(x)
        return wrong if len(x) == len(CASE.x) else CASE.model(CASE.x[:1]).expand(len(x), 2)

    found = judged(across(1.01), Function(scores))
    assert found.status[CASE.y == CASE.y[0]].tolist() == [Status.EXHAUSTED] * int((CASE.y == CASE.y[0]).sum())


def test_shortening_ends_at_the_boundary_however_far_the_witness():
    for scale in (1.5, 400.0):
        near = shorten(CASE.model, CASE.x, CASE.y, Threat(L2, None, None), across(scale), 1e-6)
        assert_close(L2.length(near - CASE.x), CASE.distance(L2), rtol=2e-6, atol=0)
        assert (CASE.model(near).argmax(1) != CASE.y).all()


def test_shortening_leaves_missing_witnesses_missing():
    witness = across(2.0)
    witness[3] = torch.nan
    near = shorten(CASE.model, CASE.x, CASE.y, Threat(L2, None, None), witness, 0.01)
    assert near[3].isnan().all()
    assert not near[4].isnan().any()

"""Which balls `exact` decides, in a world in which a ball's proof takes parts by its radius."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from marginkit.bounds.graph.graph import trace
from marginkit.methods.branch_and_bound import growing
from marginkit.methods.branch_and_bound.at_radius import Decision
from marginkit.methods.branch_and_bound.attack import Sample
from marginkit.methods.branch_and_bound.growing import FEW, Proof, expected, grown
from marginkit.norms import LINF
from marginkit.types import Threat

UPPER, WITNESS = 1.0, torch.ones(1, 1, dtype=torch.float64)
MODEL, X = nn.Linear(1, 2).double(), torch.zeros(1, 1, dtype=torch.float64)
SAMPLE = Sample(MODEL, trace(MODEL, X), X, torch.tensor([0]), Threat(LINF))


@pytest.fixture
def asked(monkeypatch):
    """A clock on which each part takes a second, and what `grown` asks: (radius, whether there was time)."""
    clock, balls = SimpleNamespace(now=0.0), list[tuple[float, bool]]()

    def decide(sample, radius, deadline, left, eager):
        parts = int(10 * 1000**radius)
        proved = clock.now + parts <= deadline
        clock.now = min(clock.now + parts, deadline)
        balls.append((radius, proved))
        return Decision(proved, None, parts)

    monkeypatch.setattr(growing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(growing, "decide", decide)
    return balls


def test_what_a_larger_ball_takes_is_read_off_two_smaller_ones():
    proofs = [Proof(r, int(FEW * 4**r), 3.0 * 4**r) for r in (1.0, 1.5)]
    assert expected(proofs, 2.0) == pytest.approx(3.0 * 4**2, rel=1e-2)


@pytest.mark.parametrize("parts", [[], [FEW], [1, FEW - 1]])
def test_few_parts_tell_nothing(parts):
    assert expected([Proof(0.1 * k, n, 1.0) for k, n in enumerate(parts, 1)], 1.0) == torch.inf


def test_the_whole_ball_is_decided_as_soon_as_its_proof_is_expected_to_fit(asked):
    lower, _ = grown(SAMPLE, 1e-4, WITNESS, (0.0, UPPER), 20_000.0)
    assert lower >= UPPER * (1 - 1e-4)
    assert all(proved for _, proved in asked)
    assert len(asked) <= 4


def test_where_it_would_not_fit_smaller_balls_come_first(asked):
    lower, _ = grown(SAMPLE, 1e-4, WITNESS, (0.0, UPPER), 5_000.0)
    assert 0.6 < lower < 0.95
    assert all(radius < 0.95 * UPPER for radius, _ in asked)


def test_what_the_rest_of_a_larger_ball_took_tells_nothing_of_whole_ones(monkeypatch):
    clock, rest, whole, told = SimpleNamespace(now=0.0), SimpleNamespace(radius=0.8), set(), set()

    def decide(sample, radius, deadline, left, eager):
        clock.now += 100
        whole.update({radius} if left is None else set())
        failed = left is None and radius > 0.7
        return Decision(not failed, None, FEW, rest if failed else None)

    def record(proofs, radius):
        told.update(proof.radius for proof in proofs)
        return torch.inf

    monkeypatch.setattr(growing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(growing, "decide", decide)
    monkeypatch.setattr(growing, "expected", record)
    lower, _ = grown(SAMPLE, 1e-4, WITNESS, (0.0, UPPER), 1_500.0)
    assert lower > 0.7
    assert told
    assert told <= whole

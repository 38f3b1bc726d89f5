"""Parts of a ball, their bounds, and decisions at a radius: by definition, by closed forms, by `exact`."""

from __future__ import annotations

import time
from dataclasses import replace

import made_up
import numpy as np
import pytest
import torch
from closed_form import linear_distance, linear_model
from torch import nn

from marginkit.bounds.graph.graph import rounded, trace
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.ball_parts import lowest
from marginkit.bounds.linear.carrying import carried, met
from marginkit.bounds.linear.climbing import climbed, proved
from marginkit.bounds.linear.clipping import downwards
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.cube import in_cube
from marginkit.bounds.linear.envelopes import Blend, Hull
from marginkit.bounds.linear.hidden import tightened
from marginkit.bounds.linear.passes import backward
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.linear.separating import layers, separated
from marginkit.bounds.lipschitz import own_stretches
from marginkit.bounds.subdomains import Subdomains
from marginkit.comparison.compare import compare
from marginkit.comparison.standing import of_table
from marginkit.errors import UsageError
from marginkit.kinds import Status
from marginkit.methods.branch_and_bound import at_radius
from marginkit.methods.branch_and_bound.at_radius import HIDDEN, ROUGH, decide
from marginkit.methods.branch_and_bound.attack import Attack, Sample
from marginkit.methods.branch_and_bound.growing import grown
from marginkit.methods.branch_and_bound.splitting import split
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.nearest import Nearest
from marginkit.methods.verify import Verify
from marginkit.norms import L1, L2, LINF
from marginkit.report.rows import of_standings, of_verified
from marginkit.report.terminal import summary
from marginkit.types import Threat

SIDE, CLASSES = 6, 4


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(1, 3, 1)
        self.last = nn.Linear(3 * SIDE * SIDE, CLASSES)

    def forward(self, x):
        return self.last(torch.relu(self.one(x) + torch.relu(self.two(x))).flatten(1))


def dense(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, 8),
        activation,
        nn.Linear(8, 6),
        activation,
        nn.Linear(6, CLASSES),
    )


NETWORKS = {
    "dense": lambda: dense(nn.ReLU()),
    "leaky": lambda: dense(nn.LeakyReLU(0.2)),
    "absolute": lambda: dense(nn.LeakyReLU(-1.0)),
    "sigmoid": lambda: dense(nn.Sigmoid()),
    "gelu": lambda: dense(nn.GELU()),
    "conv": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(4, CLASSES),
    ),
    "pooling": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, CLASSES),
    ),
    "branches": Branches,
}  # fmt: skip
networks = pytest.mark.parametrize("network", NETWORKS)
norms = pytest.mark.parametrize("norm", [L1, L2, LINF], ids=lambda norm: norm.name)
RADIUS = {L1: 1.5, L2: 0.6, LINF: 0.2}


def made(network: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = NETWORKS[network]().double().eval()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=1.5 / layer.weight[0].numel() ** 0.5)
    x = torch.rand(1, 1, SIDE, SIDE, dtype=torch.float64)
    return model, x, model(x).argmax(1).detach()


def around(network: str, norm, seed: int = 0) -> tuple[Relaxed, torch.Tensor]:
    """The relaxed network over a ball, and points of the ball."""
    model, x, y = made(network, seed)
    threat, radius = Threat(norm), RADIUS[norm]
    with torch.no_grad():
        graph = trace(model, x)
    ball = Ball(x, x.new_tensor([radius]), norm, *threat.room(x))
    unit = torch.eye(CLASSES, dtype=torch.float64)
    targets = unit[y] - unit[torch.arange(CLASSES) != y]
    with torch.no_grad():
        relaxed = Relaxed(
            graph, ball, len(graph.nodes) - 1, targets, Propagation("crown").intervals(graph, ball)
        )
    steps = torch.randn(4000, *x.shape[1:], dtype=torch.float64).sign() * torch.rand(4000, 1, 1, 1)
    inside = norm.project(steps, x.new_full((4000,), radius), *threat.room(x.expand(4000, -1, -1, -1)))
    return relaxed, x + inside


def before(relaxed: Relaxed, x: torch.Tensor) -> torch.Tensor:
    """What goes into the undecided units."""
    values = [x]
    for node in relaxed.graph.nodes[1:]:
        values.append(node.op(*(values[k] for k in node.inputs)))
    sources = [
        values[relaxed.graph.nodes[j].inputs[0]].flatten(1)[:, units.index]
        for j, units in relaxed.undecided.items()
    ]
    return torch.cat(sources, 1)


@norms
@networks
@torch.no_grad()
def test_planes_lie_below_the_network_in_their_part(network, norm):
    """For any slopes, multipliers and planes of envelopes, with some units split."""
    relaxed, x = around(network, norm)
    if norm is LINF:
        relaxed = tightened(relaxed, 2).relaxed
        assert bool(relaxed.envelopes) == (network not in ("sigmoid", "gelu"))
    inside, parts = before(relaxed, x), relaxed.root()
    for _ in range(2):  # the halves that hold the first point
        both = relaxed.halves(split(relaxed, parts))
        above, below = both[: len(parts)].each(), both[len(parts) :].each()
        parts = Subdomains.join(
            [a if bool((inside[0] >= a.low[0]).all()) else b for a, b in zip(above, below, strict=True)]
        )
    assert (parts.pick >= 0).all()
    parts = replace(
        parts,
        alpha=relaxed.least + (1 - relaxed.least) * torch.rand_like(parts.alpha),
        beta=torch.rand_like(parts.beta),
        weight=torch.rand_like(parts.weight),
        toward=3 * torch.randn_like(parts.toward),
    )
    planes = backward(relaxed, parts, relaxed.lines(parts, parts.alpha), parts.beta).planes
    margins = relaxed.graph(x) @ relaxed.targets.T
    met = 0
    for i in range(len(parts)):
        mine = ((inside >= parts.low[i] - 1e-12) & (inside <= parts.high[i] + 1e-12)).all(1)
        plane = (x * planes.normal[i]).flatten(1).sum(1) + planes.level[i]
        assert (plane >= planes.value[i] - 1e-9).all()
        assert (margins[mine, parts.rival[i]] >= plane[mine] - 1e-9).all()
        met += int(mine.sum())
    assert met


@networks
@torch.no_grad()
def test_a_climb_never_falls_and_float64_agrees(network):
    relaxed, _ = around(network, LINF)
    root = relaxed.root()
    start = backward(relaxed, root, relaxed.lines(root, root.alpha), root.beta).planes
    parts = climbed(relaxed.single(), relaxed.single().root(), 10)
    found = proved(relaxed, parts)
    assert (found.value >= start.value - 1e-5).all()
    torch.testing.assert_close(found.value.float(), parts.bound, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", sorted(NETWORKS.keys() - {"sigmoid", "gelu"}))
@torch.no_grad()
def test_planes_of_envelopes_lie_above_their_units(network):
    relaxed, x = around(network, LINF)
    relaxed = tightened(relaxed, 2).relaxed
    inside, points = before(relaxed, x), in_cube(relaxed.ball, x)
    for j, envelope in relaxed.envelopes.items():
        units = inside[:, relaxed.undecided[j].place]
        ones, toward = torch.ones_like(units), 2 * torch.randn_like(points[:1])
        planes = Hull.of(envelope, -ones, Blend(ones, ones > 0, toward.expand_as(points)))
        above = planes.above(points, units, torch.zeros_like(units))
        assert (above >= relaxed.graph.nodes[j].op(units) - 1e-9).all()


@pytest.mark.parametrize("network", ["dense", "leaky", "conv", "pooling", "branches"])
@torch.no_grad()
def test_planes_of_envelopes_raise_bounds(network):
    relaxed = tightened(around(network, LINF)[0], 2).relaxed
    plain = replace(relaxed, envelopes={})
    gained = climbed(relaxed, relaxed.root(), 40).bound - climbed(plain, plain.root(), 40).bound
    assert (gained > -1e-6).all()
    assert (gained > 1e-3).any()


@networks
@torch.no_grad()
def test_hidden_intervals_shrink_and_hold_their_values(network):
    relaxed, x = around(network, LINF)
    network_ = tightened(relaxed, 5)
    values = [x]
    for node in relaxed.graph.nodes[1:]:
        values.append(node.op(*(values[k] for k in node.inputs)))
    for value, (low, high), (was_low, was_high) in zip(
        values, network_.relaxed.intervals, relaxed.intervals, strict=False
    ):
        assert (value >= low - 1e-12).all()
        assert (value <= high + 1e-12).all()
        assert (low >= was_low - 1e-5).all()
        assert (high <= was_high + 1e-5).all()
    assert network_.relaxed.units <= relaxed.units


@networks
@torch.no_grad()
def test_beyond_its_plane_a_part_holds_all_its_points(network):
    """Half-spaces that hold some points of the ball: their units' inputs stay in the intervals."""
    relaxed, x = around(network, LINF)
    network_ = tightened(relaxed, 2)
    relaxed = network_.relaxed
    parts = network_.single.root()
    planes = proved(relaxed, parts)
    along = (x.unsqueeze(1) * planes.normal).flatten(2).sum(2)
    planes = replace(planes, level=-along.quantile(0.02, dim=0))
    found, inside = network_.beyond(parts, planes), before(relaxed, x)
    narrower = 0
    for i in range(len(parts)):
        mine = inside[along[:, i] + planes.level[i] <= 0]
        assert len(mine)
        assert (mine >= found.low[i] - 1e-12).all()
        assert (mine <= found.high[i] + 1e-12).all()
        narrower += int((found.high[i] - found.low[i] < parts.high[i] - parts.low[i]).sum())
    assert narrower or not relaxed.units


@pytest.mark.parametrize("network", ["dense", "leaky", "sigmoid", "conv", "branches"])
@torch.no_grad()
def test_the_unit_split_is_near_the_best_of_all_that_could_be(network):
    """By the product of both halves' rises, each half bounded with the part's own slopes."""
    shares = []
    for seed in range(5):
        relaxed, _ = around(network, LINF, seed)
        root = climbed(relaxed, relaxed.root(), 10)
        parts = climbed(relaxed, relaxed.halves(split(relaxed, root)), 10)
        picked = split(relaxed, parts).pick
        before_ = backward(relaxed, parts, relaxed.lines(parts, parts.alpha), parts.beta).planes.value
        worth = torch.zeros_like(parts.low)
        for unit in range(relaxed.units):
            halves = relaxed.halves(replace(parts, pick=torch.full_like(parts.pick, unit)))
            bound = backward(relaxed, halves, relaxed.lines(halves, halves.alpha), halves.beta).planes.value
            worth[:, unit] = (bound - before_.repeat(2)).clamp(min=0).view(2, -1).prod(0)
        worth = worth.where(relaxed.bent(parts), 0)
        some = worth.amax(1) > 1e-6
        shares.append((worth.gather(1, picked.unsqueeze(1)).squeeze(1) / worth.amax(1)).sqrt()[some])
    assert len(torch.cat(shares)) >= 10
    assert torch.cat(shares).mean() > 0.9


@networks
@torch.no_grad()
def test_parts_carried_into_a_smaller_ball_hold_its_points(network):
    """Of both halves of a ball those remain that reach into the smaller one, and there with every point."""
    large, x = around(network, LINF)
    near = 0.4 * (x - large.ball.x) + large.ball.x
    ball = replace(large.ball, radius=0.4 * large.ball.radius)
    own = Propagation("crown").intervals(large.graph, ball)
    small = replace(large, ball=ball, intervals=met(own, large.intervals))
    parts = large.halves(split(large, large.root()))
    found, inside = carried(parts, large, small), before(small, near)
    assert small.units <= large.units
    assert len(found) <= len(parts)
    held = ((inside.unsqueeze(1) >= found.low - 1e-12) & (inside.unsqueeze(1) <= found.high + 1e-12)).all(2)
    for rival in parts.rival.unique():
        assert held[:, found.rival == rival].any(1).all()


@pytest.mark.parametrize("with_", [(True, True), (True, False), (False, True), (False, False)])
@torch.no_grad()
def test_parts_carried_into_a_smaller_ball_are_bounded_there(with_):
    """Whether envelopes are at hand in both balls, in one or in none."""
    large, _ = around("dense", LINF)
    ball = replace(large.ball, radius=0.5 * large.ball.radius)
    own = Propagation("crown").intervals(large.graph, ball)
    known = tightened(large, 2).relaxed
    small = replace(large, ball=ball, intervals=met(own, known.intervals))
    large = known if with_[0] else large
    small = tightened(small, 2).relaxed if with_[1] else small
    assert (bool(large.envelopes), bool(small.envelopes)) == with_
    assert small.units < large.units
    parts = climbed(large, large.halves(split(large, large.root())), 10)
    found = carried(parts, large, small)
    assert len(found)
    alone = climbed(small, small.root(), 10).bound
    assert (climbed(small, found, 10).bound >= alone[found.rival] - 0.02).all()


@pytest.mark.parametrize("network", ["dense", "leaky", "conv", "branches"])
@torch.no_grad()
def test_where_all_is_decided_a_part_is_empty_or_has_its_point(network):
    """Linear regions around points of a large ball: an adversarial point is never denied, and is found."""
    relaxed, x = around(network, LINF)
    inside, margins = before(relaxed, x), relaxed.graph(x) @ relaxed.targets.T
    margin, rival = margins.min(1)
    some = margin.argsort()[:8]
    side = torch.where(inside[some] >= 0, 1.0, -1.0).double()
    root = relaxed.root()[rival[some]]
    parts = replace(
        root,
        low=root.low.where(side < 0, 0),
        high=root.high.where(side > 0, 0),
        split=side,
        rival=rival[some],
    )
    level = margin[some].median()  # so that some have such a point, and some may not
    planes = proved(relaxed, parts)

    def asked(parts, level):
        return separated(layers(relaxed), relaxed.ball, parts, replace(planes, level=planes.level - level))

    empty, points = asked(parts, level)
    assert not empty[margin[some] <= level].any()
    there = before(relaxed, points[~empty])
    assert (there * side[~empty] >= -1e-9).all()
    values = (relaxed.graph(points[~empty]) @ relaxed.targets.T).gather(1, rival[some][~empty, None])
    assert (values <= level + 1e-9).all()
    assert asked(parts, planes.value - 1e-3)[0].all()
    whole = replace(parts, split=torch.zeros_like(side))  # without constraints the plane's own bound is all
    assert asked(whole, planes.value - 1e-3)[0].all()
    assert not asked(whole, planes.value + 1e-3)[0].any()


@pytest.mark.parametrize("network", ["dense", "leaky", "conv", "branches"])
@torch.no_grad()
def test_a_search_that_goes_on_from_what_was_left_answers_as_a_new_one(network, monkeypatch):
    """At the same radius, below it, and where what is left is an adversarial input."""
    model, x, y = made(network)
    graph, threat = trace(model, x), Threat(LINF)
    distance = float(Exact(tolerance=1e-6, time_limit=60)(model, x, y, threat).upper)
    sample = Sample(model, graph, x, y, threat)
    for share in (0.999, 1.02):
        with monkeypatch.context() as early:
            early.setattr(at_radius, "PARTS", 1)
            early.setattr(Attack, "__call__", lambda *_: None)
            left = decide(sample, share * distance, time.monotonic() + 60).left
        assert left is not None or share < 1
        for radius in (share * distance, 0.99 * distance):
            found = decide(sample, radius, time.monotonic() + 60, left)
            assert found.proved == (radius < distance)
            assert found.proved != (found.witness is not None)
            assert found.proved == (found.left is None)


@pytest.mark.parametrize(("share", "asked"), [(0.3, [ROUGH]), (0.999, [ROUGH, HIDDEN])])
@torch.no_grad()
def test_hidden_units_get_better_bounds_where_rough_ones_do_not_suffice(share, asked, monkeypatch):
    """What rough ones have proved is not asked again: rivals, and parts."""
    model, x, y = made("dense")
    graph, threat, steps, begun = trace(model, x), Threat(LINF), [], []
    distance = float(Exact(tolerance=1e-6, time_limit=60)(model, x, y, threat).upper)
    monkeypatch.setattr(at_radius, "LOOKS", 0.0)
    monkeypatch.setattr(at_radius, "tightened", lambda net, n, end: steps.append(n) or tightened(net, n, end))
    monkeypatch.setattr(
        at_radius, "carried", lambda parts, *nets: begun.append(parts) or carried(parts, *nets)
    )
    found = decide(Sample(model, graph, x, y, threat), share * distance, time.monotonic() + 60)
    assert found.proved
    assert steps == asked
    assert len(begun) == len(asked) - 1
    assert all(0 < len(parts) < CLASSES - 1 for parts in begun)


@torch.no_grad()
def test_numbers_of_float32_are_rounded_downwards():
    values = torch.randn(1000, dtype=torch.float64) * 10 ** torch.randint(-9, 9, (1000,)).double()
    near = downwards(values)
    assert (near.double() <= values).all()
    assert (torch.nextafter(near, near.new_tensor(torch.inf)).double() > values).all()


@networks
@torch.no_grad()
def test_a_rounded_graph_gives_the_same_scores(network):
    model, x, _ = made(network)
    graph = trace(model, x)
    torch.testing.assert_close(
        rounded(graph, torch.float32)(x.float()), graph(x).float(), rtol=1e-5, atol=1e-5
    )


@networks
@torch.no_grad()
def test_balls_bound_the_parts_in_l2(network):
    relaxed, x = around(network, L2)
    stretches = own_stretches(relaxed.graph, L2)
    balls = Propagation("crown", stretches=stretches).enclosure(relaxed.graph, relaxed.ball)
    inside, root = before(relaxed, x), relaxed.root()
    parts = relaxed.halves(split(relaxed, root))
    whole, bound = lowest(relaxed, balls, root, 20), lowest(relaxed, balls, parts, 20)
    margins = relaxed.graph(x) @ relaxed.targets.T
    for i in range(len(parts)):
        mine = ((inside >= parts.low[i] - 1e-12) & (inside <= parts.high[i] + 1e-12)).all(1)
        assert (margins[mine, parts.rival[i]] >= bound[i] - 1e-9).all()
    assert (margins >= whole - 1e-9).all()


# Decisions at a radius --------------------------------------------------------------------------------


@norms
@torch.no_grad()
def test_a_linear_classifier_is_decided_on_both_sides_of_its_distance(norm):
    model = linear_model()
    x = torch.randn(1, 6, dtype=torch.float64)
    y = model(x).argmax(1)
    distance = float(linear_distance(model(x), model.weight, y, norm)[0])
    graph, threat, deadline = trace(model, x), Threat(norm, None, None), time.monotonic() + 60
    assert decide(Sample(model, graph, x, y, threat), 0.999 * distance, deadline).proved
    found = decide(Sample(model, graph, x, y, threat), 1.001 * distance, deadline)
    assert not found.proved
    assert found.witness is not None
    assert norm.length(found.witness - x).item() <= 1.001 * distance * (1 + 1e-9)
    assert model(found.witness).argmax(1) != y


@pytest.mark.parametrize(
    ("network", "norm"),
    [
        ("dense", L1),
        ("dense", L2),
        *((name, LINF) for name in ("dense", "leaky", "conv", "pooling", "branches")),
    ],
)
@torch.no_grad()
def test_decisions_agree_with_the_exact_distance(network, norm):
    model, x, y = made(network, seed=1)
    exact = Exact(time_limit=10.0)(model, x, y, Threat(norm))
    graph = trace(model, x)
    for share, holds in ((0.9, True), (1.1, False)):
        radius = share * float(exact.lower if holds else exact.upper)
        found = decide(Sample(model, graph, x, y, Threat(norm)), radius, time.monotonic() + 5)
        assert not (found.proved and not holds)
        assert found.witness is None or not holds
        if norm is not L1:
            assert found.proved == holds
            assert (found.witness is None) == holds


@torch.no_grad()
def test_a_part_without_undecided_units_is_no_proof_by_itself(monkeypatch):
    """Nothing left to split and a bound that fails: open, not proved."""
    model, x, y = made("dense", seed=1)
    radius = 1.05 * float(Exact()(model, x, y, Threat(LINF)).upper)
    monkeypatch.setattr(Attack, "__call__", lambda *_: None)
    found = decide(Sample(model, trace(model, x), x, y, Threat(LINF)), radius, time.monotonic() + 5)
    assert not found.proved
    assert found.witness is None


# The method ---------------------------------------------------------------------------------------------


@networks
def test_brackets_hold_and_say_what_is_open(network):
    model, x, y = made(network, seed=2)
    upper = float(Nearest("tight")(model, x, y, Threat(LINF)).upper.clamp(max=1))
    found = Verify(radii=(1.2 * upper, 0.3 * upper, 0.6 * upper), time_limit=2.0)(model, x, y, Threat(LINF))
    assert float(found.lower) <= float(found.upper)
    assert float(found.upper) <= 1.2 * upper or float(found.lower) >= 1.2 * upper * (1 - 1e-9)
    assert min(abs(float(found.lower) - share * upper) for share in (0, 0.3, 0.6, 1.2)) < 2e-6
    between = float(found.lower) <= 0.6 * upper
    assert int(found.status) == (Status.TIMEOUT if between else Status.OK)
    assert Crown()(model, x, y, Threat(LINF)).lower < 0.3 * upper or float(found.lower) >= 0.3 * upper * (
        1 - 1e-9
    )


def test_what_is_known_is_not_lost():
    model, x, y = made("dense")
    exact = Exact()(model, x, y, Threat(LINF))
    radius = 2 * float(exact.upper)
    again = Verify(radii=(radius,)).close(model, x, y, Threat(LINF), exact)
    torch.testing.assert_close(again.lower, exact.lower)
    torch.testing.assert_close(again.upper, exact.upper)
    assert again.status.tolist() == [Status.OK]


def test_without_time_only_the_search_and_one_proof_answer(monkeypatch):
    monkeypatch.setattr(at_radius, "AtRadius", None)
    model, x, y = made("conv")
    distance = float(Nearest()(model, x, y, Threat(LINF)).upper)
    found = Verify(radii=(0.01 * distance, 0.99 * distance), time_limit=0.0)(model, x, y, Threat(LINF))
    assert float(found.lower) >= 0.01 * distance * (1 - 1e-9)


@pytest.mark.parametrize("radii", [(), (0.0,), (-1.0,), (np.inf,), (0.1, np.nan)])
def test_radii_that_are_none_are_refused(radii):
    with pytest.raises(UsageError, match="give at least one radius"):
        Verify(radii=radii)


@pytest.mark.parametrize("limits", [{"time_limit": -1.0}, {"total_time_limit": np.nan}])
def test_limits_that_are_none_are_refused(limits):
    with pytest.raises(UsageError, match="give at least 0"):
        Verify(**limits)


@pytest.mark.parametrize("network", ["sigmoid", "gelu"])
@torch.no_grad()
def test_branching_passes_the_proof_where_a_network_is_smooth(network):
    model, x, y = made(network, seed=5)
    rough = Exact(time_limit=0.0)(model, x, y, Threat(LINF))
    assert rough.status.tolist() == [Status.TIMEOUT]
    assert torch.equal(rough.lower, Crown()(model, x, y, Threat(LINF)).lower)
    lower, _ = grown(
        Sample(model, trace(model, x), x, y, Threat(LINF)), 0.6, rough.witness,
        (float(rough.lower), 1.5 * float(rough.lower)), time.monotonic() + 60,
    )  # fmt: skip
    assert lower > float(rough.lower)


# What is shown ------------------------------------------------------------------------------------------


def test_tables_tell_verified_attacked_and_open_at_the_radii_that_were_asked():
    columns = (
        replace(column, method="verify", options={"radii": [0.1, 0.15, 0.3]})
        for column in made_up.exact([0.1001, 0.0, 0.3001, 0.1001], [0.2, 0.05, np.inf, np.inf], norm="linf")
    )
    table = made_up.table(*columns)
    (standing,) = of_table("model", table)
    assert of_verified([standing]).rows == (
        ("model", "linf", "0.1", "75.0%", "25.0%", "0.0%"),
        ("model", "linf", "0.15", "25.0%", "25.0%", "50.0%"),
        ("model", "linf", "0.3", "25.0%", "50.0%", "25.0%"),
    )
    assert of_standings([standing]).rows[0][-1] == "0.1: 75%, 0.3: 25-50%"
    assert {row.radius for row in compare(table, table).robust} == {0.1, 0.15, 0.3}
    assert any("Verified, attacked, open" in str(part) for part in summary(table))

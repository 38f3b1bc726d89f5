"""Proofs are of the model as it runs, or refused by name."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, weight_norm
from torch.testing import assert_close

from marginkit.bounds.graph.graph import Graph, doubled, require_same, trace
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.data.sources import load
from marginkit.errors import MethodError
from marginkit.events import Failed
from marginkit.kinds import Status
from marginkit.measurement.measure import measure
from marginkit.methods.certify.certificate import certificate
from marginkit.methods.certify.faithful import traced
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.lipschitz import Lipschitz
from marginkit.methods.nearest import Nearest
from marginkit.norms import L2, LINF
from marginkit.types import Bracket, Threat


class Net(nn.Module):
    """Two layers and what stands between them."""

    def __init__(self, between=torch.relu, features: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6), nn.Linear(features, 3)
        self.act, self.between = nn.ReLU(inplace=True), between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


class Doubling(nn.Linear):
    """A standard class with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) - 0.3


class Twice(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + super().forward(-x) * 0.5


def fork(h: Tensor) -> Tensor:
    """In-place ReLU after a fork: both branches see what it leaves."""
    return F.relu(h, inplace=True) + h


def added(h: Tensor) -> Tensor:
    before = h
    h += before.mean(1, keepdim=True)
    return F.relu(before) - 0.5 * h


def out(h: Tensor) -> Tensor:
    other = torch.zeros_like(h)
    torch.add(h.detach(), 1, out=other)
    return torch.relu(other) - h


def rows(h: Tensor) -> Tensor:
    h[:, 0] = 0
    h[:, 1:3] *= -2
    h[:, 3] = h[:, 4].clone()
    return torch.relu(h)


def through_a_view(h: Tensor) -> Tensor:
    view = h.view(-1, 2, 3)
    view.relu_()
    return h


def under_a_view(h: Tensor) -> Tensor:
    view = h.view(-1, 3, 2).mT
    h.mul_(-1).relu_()
    return view.flatten(1)


def overlapping_views(h: Tensor) -> Tensor:
    one, other = h[:, :4], h[:, 2:]
    one.clamp_(min=0.1)
    other.add_(1)
    return torch.cat([one, h[:, 4:]], 1) + h


def by_data(h: Tensor) -> Tensor:
    h.data.clamp_(-0.2, 0.2)
    return h


def detached(h: Tensor) -> Tensor:
    h.detach().abs_()
    return h


def into_a_buffer(h: Tensor) -> Tensor:
    buffer = torch.ones(len(h), 6, dtype=h.dtype)
    buffer[:, 1::2] = h[:, :3]
    buffer[:, 0] = h[:, 5]
    return torch.relu(buffer)


def in_parts(h: Tensor) -> Tensor:
    left, right = h.detach().chunk(2, 1)
    left.relu_()
    return torch.cat([right, left], 1)


def dead(h: Tensor) -> Tensor:
    """Branches that lead nowhere need no bounds."""
    _ = h.softmax(1) * h
    h.cumsum(1).relu_()
    return torch.relu(h)


def in_an_autograd_function(h: Tensor) -> Tensor:
    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, g):
            return g

    return Cut.apply(h)


TRACED = [
    fork, added, out, rows, through_a_view, under_a_view, overlapping_views, by_data, detached, into_a_buffer,
    in_parts, dead, in_an_autograd_function,
]  # fmt: skip


def hooked(kind: str) -> nn.Module:
    """A network whose layers say only half of what it does."""
    model = Net(nn.ReLU())
    if kind == "forward hook":
        model.first.register_forward_hook(lambda module, inputs, found: found.abs())
    elif kind == "hook in place":
        model.first.register_forward_hook(lambda module, inputs, found: (found.sub_(0.5).relu_(), None)[1])
    elif kind == "pre-hook":
        model.last.register_forward_pre_hook(lambda module, inputs: (inputs[0].clamp(0, 0.3),))
    elif kind == "pre-hook with keywords":
        model.last.register_forward_pre_hook(
            lambda module, inputs, named: ((2 * inputs[0],), named), with_kwargs=True
        )
    elif kind == "hook of the model":
        model.register_forward_hook(lambda module, inputs, found: found - found.flip(1) * 0.7)
    elif kind == "pre-hook of the model":
        model.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 3 - 1,))
    elif kind == "own forward":
        model.first = Doubling(4, 6)
    elif kind == "own activation":
        model.between = Twice()
    elif kind == "forward of the instance":
        linear = model.last.forward
        model.last.forward = lambda x: linear(x).flip(1)
    elif kind == "forward of the model":
        whole = Net.forward
        model.forward = lambda x: -whole(model, x)
    elif kind == "spectral norm":
        model.first = parametrizations.spectral_norm(model.first)
    elif kind == "weight norm":
        model.first = parametrizations.weight_norm(model.first)
    elif kind == "old weight norm":
        model.first = weight_norm(model.first)
    elif kind == "own parametrisation":
        nn.utils.parametrize.register_parametrization(model.first, "weight", nn.Softplus())
    return model


HOOKED = [
    "forward hook", "hook in place", "pre-hook", "pre-hook with keywords", "hook of the model",
    "pre-hook of the model", "own forward", "own activation", "forward of the instance",
    "forward of the model", "spectral norm", "weight norm", "own parametrisation",
]  # fmt: skip
MODELS = [pytest.param(lambda f=f: Net(f), id=f.__name__) for f in TRACED] + [
    pytest.param(lambda kind=kind: hooked(kind), id=kind.replace(" ", "-")) for kind in HOOKED
]


def inputs() -> Tensor:
    return torch.rand(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.quick
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "model", [*MODELS, pytest.param(lambda: hooked("old weight norm"), id="old-weight-norm")]
)
def test_the_graph_is_the_forward_pass(model):
    model = model().double().eval()
    z = torch.randn(50, 4, dtype=torch.float64)
    with torch.no_grad():
        expected = model(z.clone())
        assert_close(trace(doubled(model), inputs())(z), expected, rtol=1e-12, atol=1e-12)
        assert_close(model(z.clone()), expected)


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_found_within_what_is_proved(model):
    model = model().double().eval()
    x, threat = inputs()[:2], Threat(LINF, None, None)
    y = model(x.clone()).argmax(1)
    known = searched(model, x, y, threat)
    proved = [method(model, x, y, threat) for method in (Crown(), Lipschitz())]
    proved.append(Exact().close(model, x, y, threat, known))
    for found in proved:
        assert not found.note
        assert (found.lower <= known.upper * (1 + 1e-9)).all()
    assert (found.status == Status.OK).all()
    assert (model(found.witness.clone()).argmax(1) != y).all(), "exact closes at an adversarial input"


def searched(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Bracket:
    """What is found by a search of the model that leaves its input alone."""

    class Copying(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.clone())

    return Nearest("fast")(Copying(), x, y, threat)


class WritesIntoItsInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        view = x[:, :2]
        view.relu_()
        return super().forward(x)


def test_a_model_that_writes_into_its_input_is_followed():
    model, x = doubled(WritesIntoItsInput(nn.ReLU())), inputs()
    graph = traced(model, x, Threat(L2))
    assert_close(x, inputs(), rtol=0, atol=0)
    assert_close(graph(x), model(x.clone()))


def test_a_hook_of_all_modules_is_seen():
    model = Net(nn.ReLU()).double().eval()
    handle = register_module_forward_hook(
        lambda module, inputs, found: found * 1.5 if isinstance(module, nn.Linear) else None
    )
    try:
        z = torch.randn(20, 4, dtype=torch.float64)
        assert_close(trace(doubled(model), inputs())(z), model(z))
    finally:
        handle.remove()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
def test_the_model_comes_out_as_it_went_in():
    for between in (nn.ReLU(), nn.Softmax(1), Scripted(), Branching()):
        model = Net(between).double()
        Crown()(model, inputs(), torch.zeros(6, dtype=torch.long), Threat(L2))
        trace(model, inputs()) if isinstance(between, nn.ReLU) else None
        assert model.training
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Counting(nn.Module):
    """Answers otherwise each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + 1e-3 * self.calls.to(x.dtype)


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool((x.sum() > 0).item()) else -x


class Reduced(nn.Module):
    """In lower precision by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), torch.eye(6, dtype=torch.bfloat16)).to(x.dtype)


class Hidden(nn.Module):
    """Steps out of PyTorch and back."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy().clip(0))


def changed_constant(h: Tensor) -> Tensor:
    scale = torch.full((6,), 2.0, dtype=h.dtype)
    h = h * scale
    scale.zero_()
    return h


def by_batch(h: Tensor) -> Tensor:
    return h / h.shape[0]


def first_sample_only(h: Tensor) -> Tensor:
    h = h.clone()
    h[0] = 0
    return h


def constant_behind_a_view(h: Tensor) -> Tensor:
    buffer = torch.zeros(len(h), 6, dtype=h.dtype)
    buffer[:, :3].copy_(h[:, :3])
    return buffer


def caught(h: Tensor) -> Tensor:
    """Whoever catches what stops the trace gets no proof all the same."""
    try:
        positive = bool((h > 0).all())
    except Exception:
        positive = True
    return h if positive else -h


@pytest.mark.quick
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("between", "named"),
    [
        (Counting, "other scores"),
        (Scripted, "scripted module (between.inner)"),
        (Branching, "item in between (Branching)"),
        (Reduced, "bfloat16"),
        (Hidden, "numpy in between (Hidden)"),
        (lambda: changed_constant, "changes in place"),
        (lambda: by_batch, "other scores"),
        (lambda: first_sample_only, "treat samples alike"),
        (lambda: constant_behind_a_view, "shares memory"),
        (lambda: caught, "bool in the model (Net)"),
        (lambda: nn.Dropout().train(), None),
        (lambda: lambda h: F.dropout(h, 0.5, True), "dropout"),
        (lambda: lambda h: h + torch.rand_like(h), "rand_like"),
        (lambda: lambda h: h + torch.rand(6, dtype=h.dtype), "other scores"),
        (lambda: lambda h: h[[1, 0]] if len(h) == 2 else h, "mixes samples"),
        (lambda: lambda h: torch.ops.aten.relu(h), "relu"),
        (lambda: nn.LayerNorm(6), "layer_norm in between (LayerNorm)"),
        (lambda: lambda h: h.to(torch.float32).to(h.dtype), "float32"),
        (lambda: lambda h: h @ torch.ones(5, 6, dtype=h.dtype), "fails in the model (Net) (RuntimeError"),
    ],
)  # fmt: skip
def test_what_the_graph_could_miss_is_refused_by_name(between, named):
    model = doubled(Net(between()))
    if named is None:
        trace(model, inputs())
        return
    with pytest.raises(Unsupported) as found, torch.no_grad():
        traced(model, inputs(), Threat(L2))
    assert named in str(found.value)
    assert "fx" not in str(found.value)
    assert "\n" not in str(found.value)


def test_scores_are_compared_as_finely_as_proofs_need():
    """A part in 1e7 is no rounding; an offset of 1e6 and a masked class are no range."""
    model = doubled(Net(nn.ReLU()))
    graph = trace(model, inputs())
    require_same(graph, model, inputs())

    class Near(nn.Module):
        def __init__(self, error: float, offset: float, mask: float) -> None:
            super().__init__()
            self.error, self.offset, self.mask = error, offset, mask

        def forward(self, x: Tensor) -> Tensor:
            scores = model(x) * (1 + self.error)
            return torch.cat([scores + self.offset, torch.full_like(scores[:, :1], self.mask)], 1)

    for offset in (0.0, 1e6):
        for mask in (-1e4, -1e9, -torch.inf):
            other = Graph(trace(Near(0.0, offset, mask), inputs(), check=False).nodes)
            require_same(other, Near(1e-12, offset, mask), inputs())
            with pytest.raises(Unsupported, match="other scores"):
                require_same(other, Near(1e-7, offset, mask), inputs())


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("method", [Crown(), Lipschitz()], ids=["crown", "lipschitz"])
def test_an_offset_of_all_scores_costs_no_radius(method, offset):
    model = doubled(Net(nn.ReLU()))
    x = inputs()
    y = model(x).argmax(1)
    expected = method(model, x, y, Threat(L2)).lower
    model.last.bias += offset
    assert_close(method(model, x, y, Threat(L2)).lower, expected, rtol=1e-6, atol=1e-9 + 3e-13 * offset)


def test_a_proof_that_does_not_hold_at_its_rim_is_reported():
    """The graph is right, and what was made of it is not."""
    model = doubled(Net(nn.ReLU()))
    x = inputs()
    y = model(x).argmax(1)
    threat = Threat(L2, None, None)
    found = Nearest("fast")(model, x, y, threat).upper

    def certify(graph, x, y, threat):
        return found * 4, torch.zeros_like(y)

    with pytest.raises(MethodError, match="please report"):
        certificate(model, x, y, threat, certify)


def test_a_witness_nearer_than_what_is_proved_stops_exact():
    model = doubled(Net(nn.ReLU()))
    x, threat = inputs(), Threat(L2, None, None)
    y = model(x).argmax(1)
    known = Nearest("fast")(model, x, y, threat)
    with pytest.raises(MethodError, match="please report"):
        Exact().close(model, x, y, threat, replace(known, lower=known.upper * 1.1))


def test_one_score_and_its_negative_have_bounds():
    """What the FAQ advises for models of one score."""

    class TwoScores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1))

        def forward(self, x: Tensor) -> Tensor:
            z = self.body(x).squeeze(1)
            return torch.stack([z, -z], 1)

    model, x, threat = TwoScores().double(), inputs(), Threat(LINF, None, None)
    y = model(x).argmax(1)
    known = Nearest("fast")(model, x, y, threat)
    found = known.upper
    for proved in (Crown()(model, x, y, threat), Exact().close(model, x, y, threat, known)):
        assert (proved.status == Status.OK).all(), proved.note
        assert ((proved.lower > 0) & (proved.lower <= found * (1 + 1e-9))).all()


class Overreaching(Lipschitz):
    """Proves a thousand times what it can."""

    def __call__(self, model, x, y, threat):
        found = super().__call__(model, x, y, threat)
        return replace(found, lower=found.lower * 1e3)


def test_a_proof_beyond_a_distance_found_in_the_same_table_fails(network):
    methods = {"crown": Crown(), "overreaching": Overreaching(), "nearest": Nearest("fast")}
    heard = []
    table = measure(
        network,
        load("digits"),
        methods,
        ["l2"],
        first=4,
        on_event=heard.append,
    )
    assert (table["crown.l2"].status <= Status.MISCLASSIFIED).all()
    assert (table["nearest.l2"].status <= Status.MISCLASSIFIED).all()
    column = table["overreaching.l2"]
    right = table.predicted == table.label
    assert (column.status[right] == Status.FAILED).all()
    assert not column.distance.any()
    assert "overreaching proves" in column.note
    assert "please report" in column.note
    assert [event.column for event in heard if isinstance(event, Failed)] == ["overreaching"]


@pytest.mark.parametrize("start", range(0, 10, 5))
def test_no_proof_of_a_random_network_reaches_beyond_an_adversarial_input(start):
    """A sample of tests/benchmarks/fuzz_proofs.py, which does 2,000."""
    path = Path(__file__).parent / "benchmarks" / "fuzz_proofs.py"
    spec = importlib.util.spec_from_file_location("fuzz_proofs", path)
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    wrong, counts = fuzz.run(5, 1, start)
    assert not wrong
    assert counts["crown held against an adversarial input"] >= 2
    assert counts["crown proved"] >= 6

"""One network has one distance, in whatever precision it comes and whatever is added to its scores."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from in_turn import in_turn
from test_guard import FAST, Wrapped, data, net, samples
from torch import Tensor, nn
from torch.testing import assert_close

from marginkit.guard.casts import lifted_to
from marginkit.guard.precision import precise
from marginkit.kinds import Status
from marginkit.logits import crossed, gap, too_coarse
from marginkit.measurement.measure import measure
from marginkit.methods import METHODS
from marginkit.methods.search.views import at_layer
from marginkit.norms import L2, LINF, NORMS
from marginkit.types import Bracket, Threat

NAMES = ("first_order", "deepfool", "pgd", "nearest")
CLOSE = {"rtol": 0.01, "atol": 1e-6}


class Autocast(nn.Module):
    """Computes in a lower type inside, and answers in float32 or as it comes."""

    def __init__(self, inner: nn.Module, dtype=torch.bfloat16, back: bool = True) -> None:
        super().__init__()
        self.net, self.dtype, self.back = inner, dtype, back

    def forward(self, x):
        with torch.autocast("cpu", self.dtype):
            scores = self.net(x)
        return scores.float() if self.back else scores


class Constants(nn.Module):
    """Holds a tensor that no cast reaches, and makes another one in each forward pass."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.scale = inner, torch.ones(5, 5).diag().diag().to(dtype)

    def forward(self, x):
        return (self.net(x).to(self.scale.dtype) @ self.scale) + torch.zeros(5, dtype=self.scale.dtype)


class Half(nn.Module):
    """Half a network in half precision."""

    def __init__(self, inner: nn.Sequential) -> None:
        super().__init__()
        self.first, self.last = inner[:2], inner[2:].half()

    def forward(self, x):
        return self.last(self.first(x).half())


def rounded(dtype: torch.dtype) -> nn.Module:
    """The network with the weights that the type keeps, in float64."""
    return copy.deepcopy(net()).to(dtype).double()


# The same weights (those that the type keeps) given in several ways; which type, and how.
GIVEN: dict[str, tuple[torch.dtype, Callable[[nn.Module], nn.Module]]] = {
    "float64": (torch.float64, lambda m: m.double()),
    "float32": (torch.float32, lambda m: m.float()),
    "float16": (torch.float16, lambda m: m.half()),
    "bfloat16": (torch.bfloat16, lambda m: m.bfloat16()),
    "autocast": (torch.float32, lambda m: Autocast(m.float())),
    "autocast to float16": (torch.float32, lambda m: Autocast(m.float(), torch.float16)),
    "autocast, as it comes": (torch.float32, lambda m: Autocast(m.float(), back=False)),
    "half at the end": (torch.float32, lambda m: Wrapped(m.float(), after=lambda s: s.half())),
    "bfloat16 at the end": (torch.float32, lambda m: Wrapped(m.float(), after=lambda s: s.bfloat16())),
    "to and back": (torch.float32, lambda m: Wrapped(m.float(), after=lambda s: s.to(torch.half).float())),
    "at the input": (torch.float32, lambda m: Wrapped(m.float(), before=lambda x: x.bfloat16().float())),
    "constants": (torch.float32, lambda m: Constants(m.float(), torch.bfloat16)),
    "half of it": (torch.float16, lambda m: Half(m.float())),
    "float64 with a cast": (torch.float64, lambda m: Wrapped(m.double(), after=lambda s: s.half().double())),
}  # fmt: skip


def found_by(name: str, model: nn.Module, x: Tensor, y: Tensor, norm=L2) -> Tensor:
    answer = METHODS[name](**FAST.get(name, {}))(model, x, y, Threat(norm))
    return answer.upper if isinstance(answer, Bracket) else answer.distance


@pytest.mark.parametrize(("kind", "name", "norm"), in_turn(GIVEN, NAMES, turns=NORMS.values()), ids=str)
def test_distances_do_not_depend_on_the_precision_of_the_model(kind, name, norm):
    dtype, give = GIVEN[kind]
    reference = rounded(dtype)
    x, y = samples(net(), 8)
    wanted = found_by(name, reference, x.double(), y, norm)
    model = give(copy.deepcopy(reference))
    inputs = x.double() if kind.startswith("float64") else x
    assert_close(found_by(name, model, inputs, y, norm), wanted, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_inputs_in_half_precision_are_taken_as_they_are(name, dtype):
    x, y = samples(net(), 8)
    low = x.to(dtype)
    wanted = found_by(name, rounded(dtype), low.double(), y)
    assert_close(found_by(name, net().to(dtype), low, y), wanted, **CLOSE)


@pytest.mark.parametrize("name", ["nearest", "crown"])
def test_nothing_is_measured_in_tf32_and_the_setting_comes_back(name):
    cuda, cudnn, seen = torch.backends.cuda.matmul, torch.backends.cudnn, set()
    x, y = samples(net(), 2)

    def watched(s: Tensor) -> Tensor:
        seen.update((cuda.fp32_precision, cudnn.conv.fp32_precision))
        return s

    before = cuda.fp32_precision, cudnn.conv.fp32_precision
    try:
        cuda.fp32_precision = "tf32"
        METHODS[name](**FAST.get(name, {}))(Wrapped(net(), after=watched), x, y, Threat(L2))
        assert seen == {"ieee"}
        assert (cuda.fp32_precision, cudnn.conv.fp32_precision) == ("tf32", before[1])
    finally:
        cuda.fp32_precision = before[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_autocast_around_the_call_changes_nothing(name):
    x, y = samples(net(), 8)
    plain = found_by(name, net(), x, y)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(found_by(name, net(), x, y), plain)


@pytest.mark.parametrize("kind", ["bfloat16", "autocast", "half at the end"])
def test_at_hidden_layers_too(kind):
    dtype, give = GIVEN[kind]
    reference, model = rounded(dtype).float(), give(rounded(dtype).float())
    x, y = samples(net(), 8)
    layer = "1" if kind == "bfloat16" else "net.1"
    views = [at_layer(reference, x, Threat(L2), "1"), at_layer(model, x, Threat(L2), layer)]
    wanted, found = ([METHODS[n]()(v.model, v.x, y, v.threat).upper for n in ("deepfool",)] for v in views)
    assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "autocast", "bfloat16 at the end"])
@pytest.mark.parametrize("asked", [None, "float32", "float64", "bfloat16"])
def test_whole_measurements_agree_and_see_the_same_inputs(kind, asked):
    dtype, give = GIVEN[kind]
    x, y = samples(net(), 8)
    methods = {name: METHODS[name](**FAST.get(name, {})) for name in ("first_order", "deepfool", "nearest")}
    wanted = measure(rounded(dtype).float(), data(x, y), methods, checks=0)
    found = measure(give(rounded(dtype).float()), data(x, y), methods, dtype=asked, checks=0)
    assert (found.hash == wanted.hash).all()
    assert (found.predicted == wanted.predicted).all()
    np.testing.assert_allclose(found.logit_margin, wanted.logit_margin, rtol=0.01)
    for column in found.columns:
        rtol = 0.05 if asked == "bfloat16" else 0.01  # it searches in bfloat16, and keeps what that finds
        np.testing.assert_allclose(column.distance, wanted[column.name].distance, rtol=rtol)


@pytest.mark.parametrize("kind", ["float16", "autocast", "constants"])
def test_the_answer_says_in_which_precision_it_was_found(kind):
    dtype, give = GIVEN[kind]
    x, y = samples(net(), 4)
    note = METHODS["deepfool"]()(give(rounded(dtype)), x, y, Threat(L2)).note
    assert "float16" in note
    assert note.endswith("measured with the same weights in float32")
    assert METHODS["deepfool"]()(net(), x, y, Threat(L2)).note == ""


class Stubborn(nn.Module):
    """Insists on its type, in ways that no copy gets around."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.net = how, net().half()
        if how == "closed over":
            kept = net().half()
            self.forward = lambda x: kept(x.half())
        if how == "not to be copied":
            self.result = torch.ones(1, requires_grad=True) * 2

    def forward(self, x):
        if self.how == "asserts":
            assert x.dtype is torch.half
        return self.net(x)


@pytest.mark.parametrize("how", ["asserts", "not to be copied"])
def test_where_no_better_copy_can_be_made_the_answer_says_so_and_it_is_a_doubt(how):
    x, y = samples(net(), 8)
    model = Stubborn(how)
    found = METHODS["deepfool"]()(model, x, y, Threat(L2))
    assert found.note.startswith("scores are computed in float16, and not in float32 (")
    assert found.note.endswith("distances are rough")
    table = measure(model, data(x, y), {"deepfool": METHODS["deepfool"]()}, ["l2"], checks=8)
    assert "not in float32" in table["deepfool.l2"].note
    verdicts = {v["check"]: v for v in table.meta["reliability"]["verdicts"]}
    assert verdicts["imprecise"]["raised"]
    sound = measure(net(), data(x, y), {"deepfool": METHODS["deepfool"]()}, ["l2"], checks=8)
    assert not next(v for v in sound.meta["reliability"]["verdicts"] if v["check"] == "imprecise")["raised"]


def test_the_given_model_and_its_parameters_stay_as_they_were():
    model = net().half()
    x, y = samples(net(), 4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    METHODS["nearest"]()(model, x, y, Threat(L2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert lifted_to(model) is None
    assert lifted_to(precise(model, x).model) is torch.float32
    assert precise(net(), x).model is not precise(model, x).model


# Scores whose differences are those of the network, whatever else is in them.
SHIFTED: dict[str, Callable[[Tensor], Tensor]] = {
    "+1e3": lambda s: s + 1e3,
    "+1e4": lambda s: s + 1e4,
    "-1e5": lambda s: s - 1e5,
    "+1e6": lambda s: s + 1e6,
    "by the input": lambda s: s + 1e6 * s.detach().exp().sum(1, keepdim=True),
    "log-softmax": lambda s: s.log_softmax(1),
    "masked at -1e4": lambda s: nn.functional.pad(s, (0, 3), value=-1e4),
    "masked at -1e9": lambda s: nn.functional.pad(s, (0, 3), value=-1e9),
    "masked at -inf": lambda s: nn.functional.pad(s, (0, 3), value=-torch.inf),
    "a million masked": lambda s: nn.functional.pad(s, (0, 1000), value=-torch.inf),
    "the lowest number": lambda s: nn.functional.pad(s, (0, 3), value=torch.finfo(s.dtype).min),
    "masked by adding": lambda s: torch.cat([s, s[:, :2] - torch.inf], 1),
    "masked and shifted": lambda s: nn.functional.pad(s + 1e6, (0, 3), value=-1e9),
}


@pytest.mark.parametrize(("kind", "name", "norm"), in_turn(SHIFTED, NAMES, turns=NORMS.values()), ids=str)
def test_constants_and_masks_on_scores_change_no_distance(kind, name, norm):
    x, y = samples(net(), 8)
    wanted = found_by(name, net(), x, y, norm)
    found = found_by(name, Wrapped(net(), after=SHIFTED[kind]), x, y, norm)
    assert_close(found, wanted, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("worst", [torch.nan, torch.inf])
def test_what_is_no_mask_is_not_finite(name, worst):
    x, y = samples(net(), 4)
    model = Wrapped(net(), after=lambda s: nn.functional.pad(s, (0, 1), value=worst))
    status = METHODS[name](**FAST.get(name, {}))(model, x, y, Threat(LINF)).status
    assert (status == Status.NONFINITE).all()


def test_a_label_masked_out_is_misclassified_and_a_class_alone_has_no_rival():
    scores = torch.tensor([[1.0, -torch.inf, 2.0], [1.0, -torch.inf, -torch.inf], [-torch.inf] * 3])
    model = Wrapped(nn.Identity(), after=lambda x: scores[x[:, 0].round().long()] + 0 * x[:, :1])
    x = torch.tensor([[0.0, 0.5], [1.0, 0.5], [2.0, 0.5]])
    found = METHODS["deepfool"](steps=3)(model, x, torch.tensor([1, 0, 0]), Threat(L2, 0, 2))
    assert found.status.tolist() == [Status.MISCLASSIFIED, Status.EXHAUSTED, Status.NONFINITE]
    assert found.upper[0] == 0
    assert found.upper[1].isinf()


@pytest.mark.parametrize("kind", ["+1e6", "masked at -inf", "masked at -1e9"])
def test_tables_of_shifted_scores_are_those_of_the_network(kind):
    x, y = samples(net(), 8)
    methods = {name: METHODS[name](**FAST.get(name, {})) for name in ("first_order", "deepfool")}
    plain = measure(net(), data(x, y), methods)
    found = measure(Wrapped(net(), after=SHIFTED[kind]), data(x, y), methods)
    assert (found.predicted == plain.predicted).all()
    np.testing.assert_allclose(found.logit_margin, plain.logit_margin, rtol=1e-4)
    for one, other in zip(found.columns, plain.columns, strict=True):
        if one.layer == "input":
            np.testing.assert_allclose(one.distance, other.distance, rtol=2e-3)


def test_the_gap_is_that_of_the_two_scores_compared():
    scores = torch.tensor([[5.0, 4.0, -1e9, 3.0]])
    y, rival = torch.tensor([0]), torch.tensor([[1, 3]])
    assert_close(gap(scores, y, rival), 64 * torch.finfo(scores.dtype).eps * torch.tensor([[5.0, 5.0]]))
    assert crossed(torch.tensor([[4.0, 4.001, -1e9]]), y).all()
    assert not crossed(torch.tensor([[4.0, 4.0 + 1e-6, 0.0]]), y).any()


@pytest.mark.parametrize(
    ("scores", "coarse"),
    [
        ([1.0, 0.2, -3.0], False),
        ([10.0, 9.99, 2.0], False),
        ([1e6 + 5, 1e6, 1e6 - 9], True),
        ([1e4 + 2, 1e4, 1e4 - 9], True),
        ([1e6 + 5, 1e6, -1e9], True),
        ([1.0, 0.5, -1e9], False),
        ([1.0, 0.5, -torch.inf], False),
    ],
)
def test_where_float32_is_too_coarse(scores, coarse):
    given = torch.tensor([scores])
    assert bool(too_coarse(given, torch.tensor([0]))) is coarse
    assert not too_coarse(given.double(), torch.tensor([0]))

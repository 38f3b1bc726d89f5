"""What others' models do to inputs, and how they answer, changes no distance and none of your tensors."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from in_turn import in_turn
from torch import Tensor, nn
from torch.testing import assert_close

from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError
from marginkit.guard.answer import answer
from marginkit.losses import LOSSES
from marginkit.measurement.measure import measure
from marginkit.methods import METHODS
from marginkit.methods.asked import Asked
from marginkit.methods.search.views import at_layer
from marginkit.norms import L2, LINF, NORMS
from marginkit.reliability.examine import PROBES, examine
from marginkit.types import Bracket, Threat

Both = namedtuple("Both", ["features", "logits"])
FAST: dict[str, dict] = {
    "pgd": {"steps": 4, "rounds": 3},
    "nearest": {"effort": "fast"},
    "crown": {"climbs": 0},
    "exact": {"time_limit": 0.1},
    "verify": {"time_limit": 0.1},
    "fixed_pgd": {"steps": 4},
    "bim": {"steps": 4},
    "smoothing": {"n0": 10, "n": 30},
    "first_order": {"layers": ("input",)},
}
SEARCHES = ("first_order", "deepfool", "pgd", "nearest", "fgsm", "bim", "fixed_pgd")
SHAPE = (3, 4, 4)


@dataclass
class Answer:
    logits: Tensor
    loss: None = None


class Wrapped(nn.Module):
    """A network whose input and output go through a function each."""

    def __init__(self, net: nn.Module, before: Callable = lambda x: x, after: Callable = lambda s: s) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x):
        return self.after(self.net(self.before(x)))


class Sometimes(nn.Module):
    """Writes into its input at every third call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x.sub_(0.5).add_(0.5)) if self.calls % 3 else self.net((x - 0) * 1 + x.zero_())


class Later(nn.Module):
    """Keeps its input, and writes into it at the next call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.last = net, None

    def forward(self, x):
        if self.last is not None:
            self.last.detach().zero_()
        self.last = x
        return self.net(x * 1)


def through_a_view(x: Tensor) -> Tensor:
    x.view(len(x), -1)[:, :8].mul_(0.5)
    x[:, 1:].sub_(0.1)
    return x


# What a plain network does to its input out of place, and the same in place.
INTO_THE_INPUT = {
    "sub_.div_": (lambda x: (x - 0.5) / 0.25, lambda x: x.sub_(0.5).div_(0.25)),
    "TF.normalize": (
        lambda x: TF.normalize(x, [0.5] * 3, [0.25] * 3),
        lambda x: TF.normalize(x, [0.5] * 3, [0.25] * 3, inplace=True),
    ),
    "first ReLU": (lambda x: torch.relu(x - 0), lambda x: nn.ReLU(inplace=True)(x)),
    "a view": (lambda x: through_a_view(x.clone()), through_a_view),
    "index_put": (lambda x: torch.where(x < 0.2, 0.2, x), lambda x: x.masked_fill_(x < 0.2, 0.2)),
    "clamp_": (lambda x: x.clamp(0.1, 0.9), lambda x: x.clamp_(0.1, 0.9)),
}
ANSWERS: dict[str, Callable] = {
    "tuple": lambda s: (s, s.new_zeros(len(s), 3, 2)),
    "tuple of two": lambda s: (s, s[:, :3]),
    "list": lambda s: [s],
    "logits last": lambda s: (None, s),
    "namedtuple": lambda s: Both(s[:, :2], s),
    "dict": lambda s: {"loss": s.sum(), "logits": s},
    "a dict's only scores": lambda s: {"loss": s.sum(), "out": s},
    "ordered dict": lambda s: OrderedDict(logits=s, hidden=s),
    "an object": lambda s: Answer(s),
    "nested": lambda s: {"logits": (s, None)},
    "a parameter's class": lambda s: s.as_subclass(nn.Parameter) if not s.requires_grad else s,
}


def net() -> nn.Sequential:
    torch.manual_seed(3)
    flat = nn.Flatten()
    return nn.Sequential(flat, nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 5)).eval()


def samples(model: nn.Module, n: int = 6) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, answer(model, x).argmax(1)


def distances(name: str, model: nn.Module, x, y, norm=L2, **threat) -> Tensor:
    found = METHODS[name](**FAST.get(name, {}))(model, x, y, Threat(norm, **threat))
    return found.distance if not isinstance(found, Bracket) else torch.stack([found.lower, found.upper])


@pytest.mark.quick
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", INTO_THE_INPUT)
def test_a_model_may_write_into_its_input(kind, name):
    outside, inside = INTO_THE_INPUT[kind]
    plain, writing = Wrapped(net(), outside), Wrapped(net(), inside)
    x, y = samples(plain, 3)
    before = x.clone(), y.clone()
    found = distances(name, writing, x, y)
    if name not in ("crown", "lipschitz", "exact"):  # proofs follow the operations, which differ here
        assert_close(found, distances(name, plain, x, y), rtol=1e-4, atol=1e-6)
    assert_close((x, y), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("wrap", [Sometimes, Later], ids=["now and then", "at the next call"])
def test_a_model_that_writes_now_and_then_is_caught_as_well(wrap, name):
    x, y = samples(net())
    before = x.clone()
    model = wrap(net()).eval()
    if wrap is Sometimes:  # it answers differently at times: only the tensors are asked for
        distances(name, model, x, y)
    else:
        assert_close(distances(name, model, x, y), distances(name, net(), x, y), rtol=1e-4, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("norm", NORMS.values(), ids=str)
@pytest.mark.parametrize("kind", ANSWERS)
def test_logits_are_taken_out_of_what_holds_them(kind, norm):
    plain = net()
    x, y = samples(plain)
    for name in ("first_order", "deepfool", "nearest", "smoothing"):
        found = distances(name, Wrapped(plain, after=ANSWERS[kind]), x, y, norm)
        assert_close(found, distances(name, plain, x, y, norm), rtol=1e-4, atol=1e-6)


@pytest.mark.quick
@pytest.mark.parametrize("kind", ["tuple", "logits last", "namedtuple", "dict", "an object", "nested"])
def test_proofs_are_of_the_logits_in_what_holds_them(kind):
    plain = net()
    x, y = samples(plain, 2)
    for name in ("crown", "lipschitz"):
        found = distances(name, Wrapped(plain, after=ANSWERS[kind]), x, y, LINF)
        assert_close(found, distances(name, plain, x, y, LINF))
        assert (found[0] > 0).all()


def test_an_output_of_transformers_holds_its_logits():
    outputs = pytest.importorskip("transformers.modeling_outputs", reason="transformers is not installed")
    x, y = samples(plain := net(), 2)
    wrapped = Wrapped(plain, after=lambda s: outputs.ImageClassifierOutput(loss=s.sum(), logits=s))
    for name in ("deepfool", "crown"):
        assert_close(distances(name, wrapped, x, y), distances(name, plain, x, y))


@pytest.mark.parametrize("name", ["crown", "lipschitz"])
@pytest.mark.parametrize("value", [-1e4, -1e9])
def test_classes_masked_by_a_constant_cost_a_proof_nothing(name, value):
    plain = net()
    x, y = samples(plain, 3)
    masked = Wrapped(plain, after=lambda s: nn.functional.pad(s, (0, 9), value=value))
    wanted = distances(name, plain, x, y)[0]
    assert_close(distances(name, masked, x, y)[0], wanted, rtol=2e-3, atol=0)
    assert (wanted > 0).all()


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (lambda s: {"a": s, "b": s}, r"a dict of 'a': \[6, 5\], 'b': \[6, 5\]; expected a tensor"),
        (lambda s: (), "a tuple of nothing; expected"),
        (lambda s: None, "a NoneType of nothing; expected"),
        (lambda s: "cat", "a str of nothing; expected"),
        (lambda s: (s[:, :, None], s[:, :, None]), r"a tuple of \[6, 5, 1\], \[6, 5, 1\]; expected"),
        (lambda s: s.argmax(1), "int64; expected floating-point logits"),
        (lambda s: s > 0, "bool; expected floating-point logits"),
        (lambda s: s.sum(1), r"shape \(6,\) for 6 samples; expected"),
        (lambda s: s[:, :1], r"shape \(6, 1\) for 6 samples; expected"),
        (lambda s: s[:3], r"shape \(3, 5\) for 6 samples; expected"),
    ],
    ids=["two", "empty", "none", "text", "no matrix", "whole", "truth", "one a sample", "one", "too few"],
)
@pytest.mark.parametrize("name", ["first_order", "deepfool", "crown", "exact", "smoothing", "cross-entropy"])
def test_answers_that_are_no_logits_are_refused_in_one_sentence(after, message, name):
    x, y = samples(net())
    model = Wrapped(net(), after=after)
    with pytest.raises(MarginkitError, match=message) as found:
        LOSSES[name]()(model, x, y) if name in LOSSES else distances(name, model, x, y)
    assert "\n" not in str(found.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("how", ["whole", "in place", "a part"])
def test_compiled_models_are_searched_as_the_original(how):
    plain, model = net(), net()
    if how == "whole":
        model = torch.compile(model, backend="aot_eager")
    elif how == "in place":
        model.compile(backend="aot_eager")
    else:
        model = nn.Sequential(model[0], torch.compile(model[1:], backend="aot_eager"))
    x, y = samples(plain)
    for name in ("first_order", "deepfool", "pgd", "nearest"):
        assert_close(distances(name, model, x, y), distances(name, plain, x, y))
    note = METHODS["deepfool"]()(model, x, y, Threat(L2)).note
    assert ("torch.compile" in note) == (how == "whole")


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("script", [torch.jit.script, lambda m: torch.jit.trace(m, samples(m)[0])])
def test_scripted_models_are_searched_as_the_original(script):
    x, y = samples(net())
    model = script(net())
    for name in ("first_order", "deepfool", "nearest"):
        assert_close(distances(name, model, x, y), distances(name, net(), x, y), rtol=1e-4, atol=1e-6)


class Broken(nn.Module):
    def __init__(self, fault: Callable) -> None:
        super().__init__()
        self.fault = fault
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.fault(x)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda x: x @ torch.zeros(24, 24, dtype=torch.float64), "its weights are float32"),
        (lambda x: x.view(7, -1, 13), "by yourself"),
        (lambda x: {}[0], "KeyError: 0"),
        (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda x: x.nothing, "AttributeError"),
    ],
    ids=["dtype", "shape", "key", "division", "attribute"],
)
@pytest.mark.parametrize("name", ["first_order", "nearest", "crown", "hinge", "large-margin", "trades"])
def test_a_model_that_fails_is_one_sentence_that_names_the_module(fault, words, name):
    model = net()
    x, y = samples(model)
    model[2] = nn.Sequential(nn.Identity(), Broken(fault))
    with pytest.raises(MarginkitError, match=words) as found:
        LOSSES[name]()(model, x, y) if name in LOSSES else distances(name, model, x, y)
    assert "the model fails in 2.1 (Broken) on float32 inputs [6, 3, 4, 4]" in str(found.value)
    assert "\n" not in str(found.value)


def test_inputs_of_another_type_than_the_weights_are_one_sentence():
    with pytest.raises(MarginkitError, match="its weights are float64: give inputs of that type"):
        distances("deepfool", net().double(), *samples(net()))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", ["first_order", "deepfool", "crown", "smoothing", "cross-entropy"])
def test_quantised_models_are_refused_by_the_name_of_the_module(name):
    quantised = torch.ao.nn.quantized.dynamic.Linear(48, 5)
    model = nn.Sequential(nn.Flatten(), quantised)
    x, y = samples(net())
    with pytest.raises(MarginkitError, match=r"quantised \(1 is a torch.ao.nn.quantized") as found:
        LOSSES[name]()(model, x, y) if name in LOSSES else distances(name, model, x, y)
    assert "measure the model that it was made from" in str(found.value)


LABELS: dict[str, Callable[[Tensor], object]] = {
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.to(torch.uint8),
    "float": lambda y: y.float(),
    "half": lambda y: y.half(),
    "a column": lambda y: y[:, None],
    "one-hot": lambda y: nn.functional.one_hot(y, 5),
    "one-hot float": lambda y: nn.functional.one_hot(y, 5).float(),
    "numpy": lambda y: y.numpy(),
    "numpy float": lambda y: y.numpy().astype(np.float64),
    "big-endian": lambda y: y.numpy().astype(">i4"),
    "a list": lambda y: y.tolist(),
    "with a gradient": lambda y: y.float().requires_grad_(),
}


@pytest.fixture
def unchecked():
    """As users run it: the types in signatures are not checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, _, kind in in_turn([*METHODS, *LOSSES], range(3), turns=LABELS)]
)
def test_labels_of_any_form_that_says_the_same(kind, name, unchecked):
    model = net()
    x, y = samples(model, 4)
    if name in LOSSES:
        found, wanted = (_loss(name, model, x, labels) for labels in (LABELS[kind](y), y))
    else:
        found, wanted = (distances(name, model, x, labels) for labels in (LABELS[kind](y), y))
    assert_close(found, wanted)


@pytest.mark.parametrize("name", ["first_order", "nearest", "crown", "exact", "smoothing", "fgsm", *LOSSES])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (lambda y: y + 0.5, "float32 and not all whole"),
        (lambda y: y * torch.nan, "not all whole"),
        (lambda y: torch.softmax(torch.randn(4, 5), 1), "not one-hot"),
        (lambda y: y[:2], r"labels of shape \[2\] for 4 samples"),
        (lambda y: torch.zeros(4, 5, 2), r"labels of shape \[4, 5, 2\]"),
        (lambda y: y + 5, "labels must lie in 0..4"),
        (lambda y: y - 5, "labels must lie in 0..4"),
        (lambda y: ["a", "b", "c", "d"], "the labels are a list; expected"),
        (lambda y: None, "the labels are a NoneType; expected"),
    ],
    ids=["halves", "nan", "soft", "too few", "three axes", "too large", "negative", "text", "none"],
)
def test_labels_that_are_no_classes_are_one_sentence(labels, message, name, unchecked):
    model = net()
    x, y = samples(model, 4)
    with pytest.raises(MarginkitError, match=message):
        _loss(name, model, x, labels(y)) if name in LOSSES else distances(name, model, x, labels(y))


def _loss(name: str, model: nn.Module, x, y) -> Tensor:
    torch.manual_seed(0)
    return LOSSES[name]()(model, x, y).detach()


@pytest.mark.parametrize("name", METHODS)
def test_inputs_as_an_array_and_an_empty_batch(name, unchecked):
    model = net()
    x, y = samples(model, 4)
    assert_close(distances(name, model, x.numpy(), y), distances(name, model, x, y))
    for bad in (x.numpy().astype(np.uint8), (x > 0), torch.ones(4, 3, 4, 4, dtype=torch.int32)):
        with pytest.raises(MarginkitError, match="expected floating-point numbers"):
            distances(name, model, bad, y)
    assert distances(name, model, x[:0], y[:0]).numel() == 0
    shy = Wrapped(model, before=lambda x: x.view(len(x), -1).view_as(x))  # fails on no samples
    assert distances(name, shy, x[:0], y[:0]).numel() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_losses_refuse_an_empty_batch(name):
    x, y = samples(net())
    with pytest.raises(MarginkitError, match="it is empty; give at least one sample"):
        LOSSES[name]()(net(), x[:0], y[:0])


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", ["sub_.div_", "tuple", "logits last", "dict", "an object"])
def test_losses_see_the_same_network(kind, name):
    if name in ("certified", "lipschitz-margin"):
        pytest.skip("they follow the operations, which differ here")
    outside, inside = INTO_THE_INPUT.get(kind, (lambda x: x, lambda x: x))
    plain = net()
    x, y = samples(plain)
    before, found = x.clone(), []
    for model in (Wrapped(plain, outside), Wrapped(plain, inside, ANSWERS.get(kind, lambda s: s))):
        torch.manual_seed(0)
        value = LOSSES[name](**({"layers": ("input",)} if name == "large-margin" else {}))(model, x, y)
        found.append([value, *torch.autograd.grad(value, list(plain.parameters()))])
    assert_close(*found, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)


def data(x: Tensor, y: Tensor) -> Data:
    labels = y.numpy().astype(np.int64)
    return Data("made", "test", lambda rows: x[list(rows)], labels, tuple(x.shape[1:]), 5, "0" * 16)


def test_checks_and_views_leave_inputs_and_answers_as_they_are():
    model = Wrapped(net(), INTO_THE_INPUT["sub_.div_"][1], lambda s: {"logits": s})
    plain = Wrapped(net(), INTO_THE_INPUT["sub_.div_"][0])
    x, y = samples(plain, 12)
    before = x.clone()
    searched = {"deepfool": METHODS["deepfool"]()}
    tables = [measure(m, data(x, y), searched, ["l2"], checks=8) for m in (model, plain)]
    assert torch.equal(x, before)
    assert (tables[0].hash == tables[1].hash).all()
    assert_close(tables[0]["deepfool.l2"].distance, tables[1]["deepfool.l2"].distance, rtol=1e-4, atol=1e-6)
    asked = Asked(searched, ("l2",))
    verdicts = [examine(t, m, data(x, y), asked) for t, m in zip(tables, (model, plain), strict=True)]
    found, wanted = (
        [(v["check"], v["raised"]) for v in part["reliability"]["verdicts"]] for part in verdicts
    )
    assert found == wanted
    assert len(found) == len(PROBES)
    hidden = [at_layer(m, x, Threat(LINF), "net.1") for m in (model, plain)]
    searched_there = [METHODS["deepfool"]()(v.model, v.x, y, v.threat).upper for v in hidden]
    assert_close(*searched_there, rtol=1e-4, atol=1e-6)
    assert tables[0].predicted.tolist() == y.tolist()

"""One backward pass for norms and parameters gives what two give."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from marginkit.errors import MarginkitError
from marginkit.losses import large_margin as module
from marginkit.losses.large_margin import LargeMargin
from marginkit.losses.shared_backward import entrance, owning
from marginkit.models.architectures import ARCHITECTURES

PAPER = {"steps": 0, "gamma": 1.0, "cross_entropy": 0.0}
OPTIONS = [
    PAPER,
    PAPER | {"score": "prob", "norm": "linf", "layer_weights": "numel"},
    PAPER | {"layers": ("input",), "norm": "l1", "gamma": 0.01, "alpha": 1.0},
    {"steps": 2},
    {"steps": 1, "cross_entropy": 0.0},
]


def classifier(name="cnn"):
    torch.manual_seed(0)
    return ARCHITECTURES[name]()((1, 8, 8), 5).double()


def batch():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(7, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (7,), generator=generator)


def derived(model, loss):
    model.zero_grad(set_to_none=True)
    value = loss(model, *batch())
    value.backward()
    return [value.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_shared_gradients_are_those_of_two_passes(options, monkeypatch):
    model, loss = classifier(), LargeMargin(**options)
    assert owning(model)
    shared = derived(model, loss)
    monkeypatch.setattr(module, "owning", lambda model: {})
    assert_close(shared, derived(model, loss), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [*OPTIONS, PAPER | {"top_k": 3, "aggregate": "sum"}], ids=str)
def test_the_inputs_gradient_is_the_same_by_the_other_kernel(options, monkeypatch):
    model, loss = classifier(), LargeMargin(**options)
    before = torch.backends.mkldnn.is_available(), torch._C._get_mkldnn_enabled()
    native = derived(model, loss)
    assert before == (torch.backends.mkldnn.is_available(), torch._C._get_mkldnn_enabled())
    monkeypatch.setattr(module, "entrance", lambda model: None)
    assert_close(native, derived(model, loss), rtol=1e-10, atol=1e-14)


def test_only_gray_images_have_an_entrance():
    assert entrance(network(nn.ReLU())) == "0"
    assert entrance(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))) is None
    assert entrance(network(nn.ReLU(inplace=True))) is None
    assert entrance(nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1)] * 2, nn.Flatten())) is None
    assert entrance(classifier("mlp")) is None


def test_all_rivals_at_once_are_one_after_the_other(monkeypatch):
    model, loss = classifier("mlp"), LargeMargin(**PAPER, top_k=3, aggregate="sum")
    assert module.dense(model)
    together = derived(model, loss)
    monkeypatch.setattr(module, "dense", lambda model: False)
    assert_close(together, derived(model, loss), rtol=1e-12, atol=1e-15)


def test_parameters_that_do_not_train_get_no_gradient(monkeypatch):
    model = classifier()
    model.get_submodule("conv1")[0].weight.requires_grad_(False)
    shared = derived(model, LargeMargin(**PAPER))
    assert shared[1] is None
    monkeypatch.setattr(module, "owning", lambda model: {})
    assert_close(shared[2:], derived(model, LargeMargin(**PAPER))[2:], rtol=1e-12, atol=1e-15)


def test_the_inputs_gradient_is_there_for_who_asks():
    x, y = batch()
    x.requires_grad_()
    LargeMargin(**PAPER)(classifier(), x, y).backward()
    assert x.grad is not None
    assert x.grad.any()


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


def network(*inner):
    return nn.Sequential(nn.Conv2d(1, 4, 3), *inner, nn.Flatten(), nn.Linear(144, 5))


def tied():
    first, second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    second.weight = first.weight
    return first, second


def test_a_plain_sequence_has_owners():
    assert list(owning(network(nn.ReLU()))) == ["0", "3"]


@pytest.mark.parametrize(
    "inner",
    [
        [nn.BatchNorm2d(4)],
        [Centred()],
        [nn.Conv2d(4, 4, 1)] * 2,
        [nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))],
        tied(),
        [nn.ReLU(inplace=True)],
    ],
    ids=["BatchNorm", "a module of the user's", "one that runs twice", "parametrised", "tied", "in place"],
)
def test_nothing_is_shared_where_samples_may_interact_or_modules_are_unknown(inner):
    assert owning(network(*inner)) == {}


def test_nothing_is_shared_in_compiled_models():
    model = network(nn.ReLU())
    model.compile(backend="eager")
    assert owning(model) == {}


def test_many_rivals_have_no_pass_to_share():
    x, y = batch()
    hidden = nn.Linear(64, 5).double()
    h = hidden(x.flatten(1))
    owner = module.Owner(h, list(hidden.parameters()))
    with pytest.raises(MarginkitError, match="of one rival: give 1"):
        module.large_margin(h, y, [h], top_k=2, shortcuts=module.Shortcuts(owners=[owner]))


def test_a_second_backward_says_what_to_do():
    value = LargeMargin(**PAPER)(classifier(), *batch())
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute it anew"):
        value.backward()

"""Hidden layers inside the graph."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from marginkit.activations import capture, evaluating
from marginkit.errors import MarginkitError, UsageError

pytestmark = pytest.mark.quick


def pair(inplace: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=inplace), nn.Linear(6, 3))


def test_an_in_place_relu_does_not_change_what_was_captured():
    x = torch.randn(5, 4)
    found = []
    for inplace in (False, True):
        scores, (h,) = capture(pair(inplace), x, ("0",))
        (gradient,) = torch.autograd.grad(scores[:, 0].sum(), h)
        found.append((h.detach(), gradient))
    assert (found[0][0] < 0).any(), "the ReLU has something to change"
    for plain, in_place in zip(*found, strict=True):
        assert_close(plain, in_place)


def test_an_in_place_first_layer_leaves_the_input_alone():
    x = torch.randn(5, 4)
    kept = x.clone()
    scores, (h,) = capture(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2)), x, ("input",))
    torch.autograd.grad(scores.sum(), h)
    assert torch.equal(x, kept)
    assert torch.equal(h, kept)


def test_activations_are_in_the_graph_of_the_scores_and_of_the_parameters():
    model, x = pair(True), torch.randn(5, 4)
    scores, activations = capture(model, x, ("1", "input", "0"))
    assert [tuple(h.shape) for h in activations] == [(5, 6), (5, 4), (5, 6)]
    gradients = torch.autograd.grad(scores.sum(), activations, retain_graph=True)
    assert all(g.abs().sum() > 0 for g in gradients)
    scores.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_frozen_parameters_are_no_obstacle():
    model = pair(False).requires_grad_(False)
    scores, (h,) = capture(model, torch.randn(5, 4), ("0",))
    assert torch.autograd.grad(scores.sum(), h)[0].shape == (5, 6)


def test_an_input_in_someone_elses_graph_stays_in_it():
    before = torch.randn(5, 4, requires_grad=True)
    scores, _ = capture(pair(False), before * 2, ("input",))
    scores.sum().backward()
    assert before.grad is not None


def test_hooks_are_gone_afterwards_even_after_an_error():
    model = pair(False)
    capture(model, torch.randn(5, 4), ("0",))
    with pytest.raises(MarginkitError, match=r"the model fails in 0 \(Linear\)"):
        capture(model, torch.randn(5, 3), ("0",))
    assert not any(module._forward_hooks for module in model.modules())


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4)
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.table = nn.Embedding(3, 4)

    def forward(self, x):
        x = self.lstm(self.twice(self.twice(x)))[0]
        return x + self.table(torch.tensor([1]))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("twice", "ran 2 times"),
        ("never", "ran 0 times"),
        ("lstm", "gives tuple; expected one floating-point tensor"),
        ("table", r"gives \(1, 4\); expected one floating-point tensor with 5 samples"),
    ],
)
def test_layers_that_can_not_be_captured_are_named(layer, message):
    with pytest.raises(MarginkitError, match=f"{layer}.*{message}"):
        capture(Odd(), torch.randn(5, 4), (layer,))


@pytest.mark.parametrize("layer", ["conv7", ""])
def test_unknown_layers_are_refused_with_a_list(layer):
    with pytest.raises(UsageError, match=f"unknown layer '{layer}'; this model has input, 0, 1, 2"):
        capture(pair(False), torch.randn(5, 4), (layer,))


def test_evaluating_restores_each_modules_own_mode():
    model = pair(False).train()
    model[1].eval()
    with torch.no_grad(), evaluating(model):
        assert not any(m.training for m in model.modules())
        assert torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == [True, True, False, True]


def in_place(model: nn.Sequential) -> nn.Sequential:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (torch.compile(pair(False), backend="eager"), "_orig_mod.0"),
        (in_place(pair(False)), "0"),
        (nn.Sequential(torch.compile(pair(False), backend="eager"), nn.Linear(3, 2)), "0._orig_mod.2"),
    ],
    ids=["whole", "in place", "a part"],
)
def test_layers_inside_compiled_models_have_the_original_s_gradients(model, layer):
    """Compiled hooks see other tensors than the gradients are taken at: so nothing runs compiled here."""
    x = torch.randn(5, 4)
    scores, (h,) = capture(model, x, (layer,))
    with torch.compiler.set_stance("force_eager"):
        again, (same,) = capture(model, x, (layer,))
        model(x)
    assert scores.grad_fn.name() == again.grad_fn.name() == "AddmmBackward0"
    gradients = [
        torch.autograd.grad(out[:, 0].sum(), at, retain_graph=True)[0]
        for out, at in ((scores, h), (again, same), (scores, h))
    ]
    assert gradients[0].any()
    assert_close(gradients[0], gradients[1])
    assert_close(gradients[0], gradients[2])


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("layers", [("input",), ("input", "0")])
def test_what_lies_outside_the_compiled_part_is_as_in_the_original(layers):
    plain = pair(False)
    whole = nn.Sequential(plain, nn.Linear(3, 2))
    partly = nn.Sequential(torch.compile(plain, backend="aot_eager"), whole[1])
    x, found = torch.randn(5, 4), []
    for model in (whole, partly):
        scores, activations = capture(model, x, layers)
        found.append(torch.autograd.grad(scores[:, 0].sum(), activations))
    assert_close(*found)

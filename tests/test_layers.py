"""Layers found by looking: what a default may name, and what a name must be."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from marginkit.activations import capture
from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError
from marginkit.layers import find_stages, resolve_layers
from marginkit.losses import LargeMargin
from marginkit.measurement.measure import measure
from marginkit.methods.first_order import FirstOrder
from marginkit.models.architectures import ARCHITECTURES

X = torch.rand(4, 5, 8, generator=torch.Generator().manual_seed(0))  # 4 samples of 5 steps of 8 features


class Net(nn.Module):
    """Parts by name, and a function of (self, x) that runs them."""

    def __init__(self, run, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


class Answering(nn.Module):
    """A linear map that hands its answer on in a container."""

    def __init__(self, pack, features=8) -> None:
        super().__init__()
        self.inner, self.pack = nn.Linear(features, 8), pack

    def forward(self, x):
        return self.pack(self.inner(x))


def dense(features: int = 8, outputs: int = 8) -> nn.Linear:
    return nn.Linear(features, outputs)


def recurrent(kind) -> Net:
    return Net(
        lambda m, x: m.fc(m.act(m.mix(m.rnn(x)[0][:, -1]))),
        rnn=kind(8, 8, batch_first=True), mix=dense(), act=nn.ReLU(), fc=dense(8, 3),
    )  # fmt: skip


def sequence_first(stage: nn.Module) -> Net:
    return Net(
        lambda m, x: m.fc(m.act(m.mix(m.stage(x.transpose(0, 1)).mean(0)))),
        stage=stage, mix=dense(), act=nn.ReLU(), fc=dense(8, 3),
    )  # fmt: skip


def flat(x):
    return x.flatten(1)[:, :8]


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Flatten(), dense(40), nn.ReLU(), dense(8, 3)))


def traced_part() -> nn.Module:
    part = torch.jit.trace(nn.Sequential(dense(), nn.ReLU(), dense()), torch.rand(2, 8))
    return Net(lambda m, x: m.fc(m.mix(m.part(flat(x))).relu()), part=part, mix=dense(), fc=dense(8, 3))


def parallel_heads() -> Net:
    def run(m, x):
        h = m.body(flat(x)).relu()
        return (m.head(h) + m.other(h)) / 2

    return Net(run, body=dense(), head=dense(8, 3), other=dense(8, 3))


def auxiliary(run_it: bool) -> Net:
    def run(m, x):
        h = m.body(flat(x)).relu()
        if run_it:
            m.aux(h)
        return m.fc(m.mix(h).relu())

    return Net(run, body=dense(), aux=dense(8, 3), mix=dense(), fc=dense(8, 3))


def shared_under_two_names() -> Net:
    block = dense()
    return Net(
        lambda m, x: m.fc(m.mix(m.second(m.first(flat(x)).relu()).relu())),
        first=block, second=block, mix=dense(), fc=dense(8, 3),
    )  # fmt: skip


def packed(pack, unpack) -> Net:
    return Net(
        lambda m, x: m.fc(m.mix(unpack(m.part(flat(x)))).relu()),
        part=Answering(pack),
        mix=dense(),
        fc=dense(8, 3),
    )


def attention() -> Net:
    return Net(
        lambda m, x: m.fc(m.mix(m.attn(x, x, x)[0].mean(1)).relu()),
        attn=nn.MultiheadAttention(8, 2, batch_first=True), mix=dense(), fc=dense(8, 3),
    )  # fmt: skip


def in_windows() -> Net:
    """A stage whose leading size counts samples times windows."""
    return Net(
        lambda m, x: m.fc(m.mix(m.windows(x.flatten(0, 1)).view(len(x), -1)[:, :8]).relu()),
        windows=dense(), mix=dense(), fc=dense(8, 3),
    )  # fmt: skip


def defined_backwards() -> Net:
    return Net(
        lambda m, x: m.fc(m.mix(m.first(flat(x)).relu()).relu()), fc=dense(8, 3), mix=dense(), first=dense()
    )


def without_gradient() -> Net:
    def run(m, x):
        with torch.no_grad():
            h = m.frozen(flat(x))
        return m.fc(m.mix(h + flat(x)).relu())

    return Net(run, frozen=dense(), mix=dense(), fc=dense(8, 3))


def in_a_list() -> Net:
    def run(m, x):
        h = flat(x)
        for block in m.blocks:
            h = block(h).relu()
        return m.fc(h)

    return Net(run, blocks=nn.ModuleList([dense(), dense()]), fc=dense(8, 3))


CASES = {
    "lstm": (lambda: recurrent(nn.LSTM), ("mix",), ("rnn (gives tuple)",)),
    "gru": (lambda: recurrent(nn.GRU), ("mix",), ("rnn (gives tuple)",)),
    "rnn": (lambda: recurrent(nn.RNN), ("mix",), ("rnn (gives tuple)",)),
    "attention": (attention, ("mix",), ("attn (gives tuple)",)),
    "sequence first": (
        lambda: sequence_first(dense()),
        ("mix",),
        ("stage (gives [5, 2, 8] for 2 samples)",),
    ),
    "encoder, sequence first": (
        lambda: sequence_first(nn.TransformerEncoderLayer(8, 2, 8, dropout=0)),
        ("mix",),
        ("stage (gives [5, 2, 8] for 2 samples)",),
    ),
    "tuple": (lambda: packed(lambda h: (h, None), lambda t: t[0]), ("part.inner", "mix"), ()),
    "dict": (lambda: packed(lambda h: {"h": h}, lambda t: t["h"]), ("part.inner", "mix"), ()),
    "list": (lambda: packed(lambda h: [h, h], lambda t: t[1]), ("part.inner", "mix"), ()),
    "a module list": (in_a_list, ("blocks.0", "blocks.1"), ()),
    "windows": (in_windows, ("mix",), ("windows (gives [10, 8] for 2 samples)",)),
    "scripted": (scripted, (), ("all hidden layers (compiled or scripted)",)),
    "scripted, trusted away": (lambda: nn.Sequential(scripted()), (), ("0 (compiled or scripted)",)),
    "a traced part": (traced_part, ("part", "mix"), ()),
    "two heads": (parallel_heads, ("body",), ()),
    "a head that did not run": (lambda: auxiliary(False), ("body", "mix"), ("aux (did not run)",)),
    "a head beside": (lambda: auxiliary(True), ("body", "mix"), ("aux (is no part of the scores)",)),
    "one block, two names": (shared_under_two_names, ("mix",), ("first (ran 2 times)",)),
    "defined backwards": (defined_backwards, ("first", "mix"), ()),
    "no gradient within": (without_gradient, ("mix",), ("frozen (is no part of the scores)",)),
    "compiled": (
        lambda: torch.compile(nn.Sequential(nn.Flatten(), dense(40, 3)), backend="eager"),
        (),
        (),  # it runs as it was written, and has no hidden stage
    ),
}
cases = pytest.mark.parametrize(("make", "hidden", "left_out"), CASES.values(), ids=CASES)


def made(make) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit
        return make().eval()


@cases
def test_the_defaults_are_stages_that_give_one_tensor_a_sample(make, hidden, left_out):
    stages = find_stages(made(make), X)
    assert stages.names == ("input", *hidden)
    for part in left_out:
        assert part in stages.remark()
    assert bool(left_out) == (stages.remark() is not None)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@cases
def test_the_default_measurement_never_ends_in_a_layer_that_nobody_named(make, hidden, left_out):
    """And what it says of each layer is what the same layer says when it is named."""
    model = made(make)
    data = Data("x", "test", lambda rows: X[rows], model(X).argmax(1).numpy(), (5, 8), 3, "f")
    table = measure(model, data, {"first_order": FirstOrder()}, ["l2"], bounds=(None, None), batch_size=3)
    assert [c.layer for c in table.columns] == ["input", *hidden]
    if hidden:
        named = measure(model, data, {"f": FirstOrder(layers=hidden)}, ["l2"], bounds=(None, None))
        for column, same in zip(table.columns[1:], named.columns, strict=True):
            assert column.distance == pytest.approx(same.distance, rel=1e-5)


@pytest.mark.parametrize("samples", [2, 3, 5])
@pytest.mark.parametrize("make", [dense, lambda: nn.TransformerEncoderLayer(8, 2, 8, dropout=0)])
def test_a_named_layer_with_the_sequence_first_is_refused_even_if_as_long_as_the_batch(make, samples):
    model = made(lambda: sequence_first(make()))
    x = torch.rand(samples, samples, 8)
    with pytest.raises(MarginkitError, match=r"layer 'stage' gives .* expected one floating-point"):
        resolve_layers(model, ("stage",), x)


def test_the_loss_trains_where_stages_give_containers():
    model = made(lambda: recurrent(nn.GRU)).train()
    loss = LargeMargin(layers=("all",))(model, X, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.training


def test_a_model_that_was_changed_is_looked_at_again():
    model = nn.Sequential(nn.Flatten(), dense(40), nn.ReLU(), dense(8, 3))
    assert find_stages(model, X).names == ("input", "1")
    model[3] = nn.Sequential(dense(), nn.ReLU())
    model.append(dense(8, 3))
    assert find_stages(model, X).names == ("input", "1", "3")


def test_looking_leaves_no_trace():
    model = nn.Sequential(nn.Flatten(), dense(40), nn.BatchNorm1d(8), nn.Dropout(), dense(8, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept, state = X.clone(), torch.random.get_rng_state()
    find_stages(model, X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(X, kept)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(m.training and not m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_model_that_fails_while_it_is_looked_at_is_measured_at_its_input():
    stages = find_stages(Net(lambda m, x: m.fc(x.view(7, -1)), fc=dense(8, 3)), X)
    assert stages.names == ("input",)
    assert "looking at them failed" in stages.remark()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_default_layers_of_every_architecture_can_be_captured(name):
    model = ARCHITECTURES[name]()((1, 16, 16), 4).eval()
    x = torch.rand(2, 1, 16, 16)
    layers = find_stages(model, x).names
    assert layers[0] == "input"
    scores, activations = capture(model, x, layers)
    assert scores.shape == (2, 4)
    assert all(torch.autograd.grad(scores.sum(), h, retain_graph=True)[0].any() for h in activations)
    assert all("normalize" not in layer and "scores" not in layer for layer in layers)


def test_default_layers_look_into_a_single_wrapper():
    inner = nn.Sequential(dense(40), nn.ReLU(), dense(8, 3))
    assert find_stages(nn.Sequential(nn.Flatten(), inner), X).names == ("input", "1.0")


def test_groups_of_layers():
    model = nn.Sequential(dense(8, 6), nn.ReLU(), dense(6, 3))
    x = torch.rand(5, 8)
    assert resolve_layers(model, ["all"], x) == ("input", "0")
    assert resolve_layers(model, ["hidden"], x) == ("0",)
    assert resolve_layers(model, ["1", "hidden", "1"], x) == ("1", "0")

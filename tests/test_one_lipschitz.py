"""Networks that are 1-Lipschitz by construction: layers, conversion, certificates, training and losses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from marginkit.bounds.graph.graph import doubled, trace
from marginkit.bounds.graph.ops import Convolution
from marginkit.bounds.lipschitz import own_stretches, stretches
from marginkit.bounds.spectral import convolution_norm
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import UsageError
from marginkit.losses.certified_margin import CertifiedMargin
from marginkit.losses.large_margin import LargeMargin
from marginkit.losses.lipschitz_constants import pair_constants
from marginkit.methods.crown import Crown
from marginkit.methods.exact import Exact
from marginkit.methods.lipschitz import Lipschitz
from marginkit.methods.nearest import Nearest
from marginkit.models import checkpoint as checkpoints
from marginkit.models.lipschitz import LipschitzCNN, LipschitzMLP
from marginkit.models.one_lipschitz import (
    AOL,
    Cayley,
    CayleyKernel,
    MaxMin,
    is_constrained,
    maxmin,
    plain_state,
)
from marginkit.norms import L2
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat

NETS = {
    "mlp": (LipschitzMLP(hidden=(24, 17)), (1, 4, 4)),
    "mlp-aol": (LipschitzMLP(hidden=(24,), layer="aol"), (1, 4, 4)),
    "cnn": (LipschitzCNN(channels=(4, 5), hidden=(8,), depth=1), (1, 6, 6)),
    "cnn-aol": (LipschitzCNN(channels=(6,), hidden=(), layer="aol"), (2, 5, 4)),
}
nets = pytest.mark.parametrize("name", NETS)


def built(name: str) -> tuple[nn.Sequential, nn.Sequential, tuple[int, ...]]:
    """For training, the same as ordinary layers, and the shape of an input."""
    build, shape = NETS[name]
    torch.manual_seed(0)
    free = build(shape, 4)
    build.constrain(free)
    free.normalize.std.fill_(0.5)
    plain = build(shape, 4)
    plain.load_state_dict(plain_state(free))
    return free, plain.eval(), shape


@pytest.mark.quick
@pytest.mark.parametrize(("out", "into"), [(6, 6), (4, 9), (9, 4), (1, 5)])
def test_cayley_gives_orthonormal_rows_or_columns(out, into):
    layer = Cayley()
    weight = layer(layer.right_inverse(torch.empty(out, into, dtype=torch.float64)))
    gram = weight @ weight.T if out <= into else weight.T @ weight
    assert weight.shape == (out, into)
    assert_close(gram, torch.eye(min(out, into), dtype=torch.float64))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("out", "into", "size"), [(6, 6, (3, 3)), (4, 7, (3, 2)), (8, 2, (5, 5)), (3, 3, (1, 1))]
)
def test_a_cayley_kernel_keeps_every_length_on_a_torus(out, into, size):
    like = torch.empty(out, into, *size, dtype=torch.float64)
    layer = CayleyKernel(like)
    torch.manual_seed(1)
    kernel = layer(*layer.right_inverse(like))
    assert kernel.shape == like.shape
    kernel = kernel if out >= into else kernel.transpose(0, 1)
    x = torch.randn(3, kernel.shape[1], 8, 8, dtype=torch.float64)
    around = F.pad(x, (0, size[1] - 1, 0, size[0] - 1), "circular")
    assert_close(F.conv2d(around, kernel).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    op = Convolution(kernel, None, (1, 1), (1, 1), (1, 1), 1)
    assert 0.9 < convolution_norm(op, (kernel.shape[1], 8, 8)) <= 1 + 1e-8


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (4, 6, 3, 3), (6, 4, 3, 2)])
def test_aol_is_never_longer_than_one(shape):
    torch.manual_seed(0)
    weight = AOL()(torch.randn(shape, dtype=torch.float64))
    if len(shape) == 2:
        assert torch.linalg.matrix_norm(weight, 2) <= 1 + 1e-12
    else:
        norm = convolution_norm(Convolution(weight, None, (1, 1), (1, 1), (1, 1), 1), (shape[1], 9, 9))
        assert 0.1 < norm <= 1 + 1e-8


def test_maxmin_sorts_pairs_and_leaves_an_odd_channel():
    x = torch.tensor([[1.0, 5.0, 3.0, 2.0, -7.0]])
    assert maxmin(x).tolist() == [[3.0, 5.0, 1.0, 2.0, -7.0]]
    assert torch.equal(MaxMin()(x[:, :1]), x[:, :1])


@pytest.mark.quick
@nets
def test_the_ordinary_network_is_the_trained_one_and_stretches_by_its_scale_alone(name):
    free, plain, shape = built(name)
    x = torch.rand(20, *shape)
    with torch.no_grad():
        assert_close(free(x), plain(x), rtol=0, atol=1e-5)
    assert is_constrained(free)
    assert not is_constrained(plain)
    graph = trace(doubled(plain), x.double())
    before = stretches(graph, own_stretches(graph, L2))[graph.nodes[-1].inputs[0]]
    assert before <= 2 * (1 + 1e-5)
    if "aol" not in name:
        assert before > 1.8
    assert_close(plain.scores.weight.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("name", ["mlp-aol", "cnn"])
def test_brackets_hold_and_meet(name):
    _, plain, shape = built(name)
    x = torch.rand(2, *shape)
    y = plain(x).argmax(1)
    threat = Threat(L2)
    proved, found = Lipschitz()(plain, x, y, threat), Nearest(effort="fast")(plain, x, y, threat)
    assert (proved.lower > 0).all(), proved.note
    assert (proved.lower <= found.upper).all()
    linear = Crown(ascents=0)(plain, x, y, threat)
    assert (linear.lower > 0).all(), linear.note
    assert (linear.lower <= found.upper).all()


def test_exact_splits_pairs():
    _, plain, shape = built("mlp")
    x = torch.rand(2, *shape)
    y = plain(x).argmax(1)
    found = Exact(time_limit=20.0)(plain, x, y, Threat(L2))
    assert ((found.upper - found.lower) <= 1e-3 * found.upper).all()
    assert (Lipschitz()(plain, x, y, Threat(L2)).lower <= found.upper).all()


@nets
def test_constants_to_train_with_are_those_of_the_proof(name):
    free, plain, shape = built(name)
    x = torch.rand(3, *shape)
    known = pair_constants(free, x, 4, 5).detach()
    rows = plain.scores.weight.detach()
    assert_close(known, 2 * (rows.unsqueeze(1) - rows).norm(dim=2), atol=1e-5, rtol=1e-5)
    estimated = pair_constants(plain, x, 4, 300).detach()
    assert (estimated <= known * (1 + 1e-4) + 1e-5).all()


def test_the_certified_margin_is_cross_entropy_of_distances():
    free, _, shape = built("mlp")
    x, y = torch.rand(5, *shape), torch.tensor([0, 1, 2, 3, 0])
    scores, constants = free(x), pair_constants(free, x, 4, 5)
    moved = torch.stack([(scores[i, y[i]] - scores[i]) / constants[y[i]] for i in range(5)])
    logits = (0.7 - moved) / 0.2
    logits[torch.arange(5), y] = 0
    assert_close(CertifiedMargin(radius=0.7, temperature=0.2)(free, x, y), 0.2 * F.cross_entropy(logits, y))
    with pytest.raises(UsageError, match="temperature 0; expected"):
        CertifiedMargin(temperature=0)


def test_the_large_margin_loss_has_two_denominators():
    """On a network whose gradient is as long as its constant both are the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()
    x, y = torch.rand(8, 1, 4, 4).double(), torch.randint(4, (8,))
    options = {"layers": ("input",), "gamma": 1.0, "steps": 0, "cross_entropy": 0.0, "top_k": 3}
    linearised = LargeMargin(**options)(model, x, y)
    assert_close(LargeMargin(**options, norm_of="lipschitz")(model, x, y), linearised)
    with pytest.raises(UsageError, match="known in l2, at the input"):
        LargeMargin(norm_of="lipschitz", norm="linf")(model, x, y)


@pytest.fixture(scope="module")
def digits():
    return load("digits", Source(split="train"))


@pytest.mark.parametrize(
    ("loss", "options"), [("certified-margin", {"radius": 0.8}), ("large-margin", {"norm_of": "lipschitz"})]
)
def test_training_gives_an_ordinary_network_whose_margins_are_nearly_distances(
    tmp_path, digits, loss, options
):
    train(digits, tmp_path / "m.pt", architecture="lipschitz-mlp", architecture_options={"hidden": (48, 32)},
          loss=loss, loss_options=options, recipe=Recipe(epochs=8, learning_rate=1e-2))  # fmt: skip
    found, _ = checkpoints.load(tmp_path / "m.pt")
    model, test = found.model(), load("digits")
    assert not is_constrained(model)
    rows = list(range(40))
    x, y = test.inputs(rows), torch.from_numpy(test.labels[rows])
    assert (model(x).argmax(1) == y).float().mean() > 0.85
    proved, above = Lipschitz()(model, x, y, Threat(L2)).lower, Nearest()(model, x, y, Threat(L2)).upper
    assert (proved <= above).all()
    assert proved.median() > 0.7 * above.median()
    assert proved.median() > 0.3

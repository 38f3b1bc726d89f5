"""The folded copy that `nearest` searches in: the same function, or none; and no word of its is believed."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from unchanged import unchanged

from marginkit.guard.folding import folded
from marginkit.kinds import Status
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.nearest import Nearest
from marginkit.methods.pgd import PGD
from marginkit.methods.search import faster
from marginkit.methods.search.verification import is_adversarial
from marginkit.norms import L2, NORMS
from marginkit.types import Threat

SHAPE = torch.Size((2, 6, 6))
NEAREST = Nearest("fast")


class Net(nn.Module):
    """Two convolutions and a head; what is done between the first one and its BatchNorm, `between` says."""

    def __init__(self, between=lambda self, x: self.norm(self.conv(x)), **norm) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4, **norm)
        self.more, self.head = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)), nn.Linear(4, 3)
        self.last = nn.BatchNorm1d(3)
        self.between = between

    def forward(self, x):
        hidden = F.relu(self.more(F.relu(self.between(self, x))))
        return self.last(self.head(hidden.mean((2, 3))))


def settled(model, seed=0):
    """With statistics of its own, in eval mode."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            module.running_mean.normal_(), module.running_var.uniform_(0.3, 2)
            module.weight.data.normal_(1, 0.3), module.bias.data.normal_(0, 0.3)
    return model.eval()


def gone(model):
    """The names of BatchNorms that do nothing."""
    return {name for name, m in model.named_modules() if "Norm" in type(m).__name__ and "forward" in vars(m)}


@pytest.fixture
def net():
    """With a few samples in each class, and boundaries between them."""
    torch.manual_seed(0)
    model = Net(momentum=None)
    model.more[1].momentum = model.last.momentum = None
    model(torch.rand(256, *SHAPE))  # the statistics are those of these inputs
    model.eval()
    return model


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_copy_is_the_same_function_without_its_norms(net, dtype):
    net, x = net.to(dtype), torch.rand(16, *SHAPE, dtype=dtype)
    with unchanged(net):
        found = folded(net, SHAPE)
        assert gone(found) == {"norm", "more.1", "last"}
        torch.testing.assert_close(found(x), net(x), rtol=1e-5, atol=1e-6)
    assert found.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_layers_of_one_and_three_axes_and_with_biases_fold_too():
    torch.manual_seed(0)
    head = nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)
    for conv, norm, axes in ((nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv3d, nn.BatchNorm3d, 3)):
        model = nn.Sequential(conv(2, 4, 3), norm(4), nn.ReLU(), nn.AdaptiveMaxPool3d(1) if axes == 3 else
                              nn.AdaptiveMaxPool1d(1), nn.Flatten(), *head).eval()  # fmt: skip
        settled(model[:2]), model[-1].running_var.uniform_(0.3, 2)
        x = torch.rand(8, 2, *[5] * axes)
        found = folded(model, x.shape[1:])
        assert gone(found) == {"1", "6"}
        torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-6)


def read_twice(self, x):
    hidden = self.conv(x)
    return self.norm(hidden) + 0.1 * hidden


def view_read(self, x):
    hidden = self.conv(x)
    return self.norm(hidden) + 0.1 * hidden[:, :1]


def runs_twice(self, x):
    return self.norm(self.conv(x)) + self.norm(self.conv(x.flip(3)))


def norm_runs_twice(self, x):
    return self.norm(self.norm(self.conv(x)))


def weight_read(self, x):
    return self.norm(self.conv(x)) + F.conv2d(x, self.conv.weight, padding=1)


def statistics_read(self, x):
    return self.norm(self.conv(x)) + self.norm.running_mean.mean()


def changed_between(self, x):
    return self.norm(self.conv(x).mul_(0.5))


def by_hand(self, x):
    return F.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var)


def scripted(self, x):
    hidden = self.conv(x)
    return self.norm(hidden) + scripted_half(hidden)


def half(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch says that it will go one day
    scripted_half = torch.jit.script(half)


def read_twice_where_differentiated(self, x):
    hidden = self.conv(x)
    return self.norm(hidden) + 0.1 * hidden if x.requires_grad else self.norm(hidden)


DOUBTS = (
    read_twice, view_read, runs_twice, norm_runs_twice, weight_read, statistics_read, changed_between,
    by_hand, scripted, read_twice_where_differentiated,
)  # fmt: skip


@pytest.mark.parametrize("between", DOUBTS, ids=lambda f: getattr(f, "__name__", "?"))
def test_a_layer_that_anything_else_reads_stays_as_it_is(between):
    torch.manual_seed(0)
    model, x = settled(Net(between)), torch.rand(4, *SHAPE)
    found = folded(model, SHAPE)
    assert gone(found) == {"more.1", "last"}
    torch.testing.assert_close(found(x), model(x), rtol=1e-5, atol=1e-6)


def test_no_statistics_hooks_changed_layers_and_looks_at_values_are_doubts(net):
    assert gone(folded(settled(Net(track_running_stats=False)), SHAPE)) == {"more.1", "last"}
    trains = copy.deepcopy(net)
    trains.norm.train()
    assert folded(trains, SHAPE) is None  # no two of its answers are the same
    hooked = copy.deepcopy(net)
    hooked.conv.register_forward_hook(lambda *_: None)
    assert "norm" not in gone(folded(hooked, SHAPE))
    changed = copy.deepcopy(net)
    nn.utils.parametrizations.weight_norm(changed.conv)
    assert "norm" not in gone(folded(changed, SHAPE))
    tied = copy.deepcopy(net)
    tied.norm.bias = tied.more[1].bias
    assert gone(folded(tied, SHAPE)) == {"last"}
    for look in (lambda x: bool(x.mean() > 0), lambda x: x.max().item()):
        assert (
            folded(settled(Net(lambda self, x, look=look: self.norm(self.conv(x)) * (1 + look(x)))), SHAPE)
            is None
        )


def test_where_there_is_nothing_to_fold_or_the_copy_answers_otherwise_there_is_none(net):
    assert folded(nn.Sequential(nn.Flatten(), nn.Linear(72, 3)), SHAPE) is None
    assert folded(net, torch.Size((5, 6, 6))) is None  # it fails on such inputs
    random = settled(Net(lambda self, x: self.norm(self.conv(x)) + torch.rand(())))
    assert folded(random, SHAPE) is None
    net.norm.running_var.fill_(torch.nan)
    assert folded(net, SHAPE) is None


def test_code_that_wants_its_channels_first_gets_them():
    torch.manual_seed(0)
    model = settled(Net(lambda self, x: self.norm(self.conv(x)).view(len(x), -1).view(len(x), 4, 6, 6)))
    found = folded(model, SHAPE)
    assert gone(found) == {"norm", "more.1", "last"}
    assert not found.conv.weight.is_contiguous(memory_format=torch.channels_last)


def measured(model, norm="l2", n=8, size=8, search=NEAREST):
    x = torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    found = [
        search(model, a, b, Threat(NORMS[norm])) for a, b in zip(x.split(size), y.split(size), strict=True)
    ]
    return x, y, torch.cat([part.upper for part in found]), torch.cat([part.witness for part in found])


@pytest.mark.parametrize("search", [NEAREST, DeepFool(), PGD(steps=20)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("norm", NORMS)
def test_searches_in_the_copy_find_what_is_found_without_and_in_any_batch(net, norm, search, monkeypatch):
    _, y, upper, witness = measured(net, norm, search=search)
    assert bool(is_adversarial(net, witness[upper.isfinite()], y[upper.isfinite()]).all())
    torch.testing.assert_close(measured(net, norm, size=3, search=search)[2], upper, rtol=1e-5, atol=0)
    asked = []
    monkeypatch.setattr(faster, "folded", lambda model, _: asked.append(model))
    torch.testing.assert_close(measured(net, norm, search=search)[2], upper, rtol=5e-3, atol=0)
    assert asked == [net]


@pytest.mark.quick
def test_nothing_the_copy_says_is_believed(net, monkeypatch):
    """One that moves the boundary a hair is followed; one that lies is not, and the search is done anew."""
    _, _, upper, _ = measured(net)

    def lying(share):
        other = copy.deepcopy(net)
        other.last.bias.data += share * torch.tensor([1.0, -1.0, 0.5])
        monkeypatch.setattr(faster, "folded", lambda *_: other)
        x, y, found, witness = measured(net)
        assert bool(is_adversarial(net, witness, y).all())
        torch.testing.assert_close(L2.length(witness.double() - x), found)
        return found

    torch.testing.assert_close(lying(1e-5), upper, rtol=5e-3, atol=0)
    assert float((lying(0.5) / upper).max()) < 30  # misled, perhaps, but never unverified


def test_a_sample_whose_copy_finds_nothing_real_is_searched_as_it_would_be_without_one(net, monkeypatch):
    monkeypatch.setattr(faster, "_taken_across", lambda model, x, *_: torch.arange(len(x)))
    with monkeypatch.context() as patch:
        patch.setattr(faster, "folded", lambda *_: None)
        without = measured(net)[2]
    assert torch.equal(measured(net)[2], without)


def test_a_search_behind_a_hidden_layer_folds_what_lies_behind_it(net):
    from marginkit.methods.search.views import at_layer

    x, y, *_ = measured(net)
    for layer in ("conv", "norm", "more.0", "more.1"):
        view = at_layer(net, x, Threat(L2), layer)
        found = Nearest("fast")(view.model, view.x, y, view.threat)
        assert bool((found.status == Status.OK).all())
        copied = folded(view.model, view.x.shape[1:])
        torch.testing.assert_close(copied(view.x), view.model(view.x), rtol=1e-5, atol=1e-6)

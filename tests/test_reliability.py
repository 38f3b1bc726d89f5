"""Masked models are flagged and honest ones are not; each check sees its own symptom."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from marginkit_cli.main import main
from masked import MASKED, Noisy
from quickly import measure
from torch import nn

from marginkit.comparison.flags import table_flags
from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError
from marginkit.events import Checked
from marginkit.methods import METHODS
from marginkit.methods.asked import Asked
from marginkit.methods.configure import configure_methods
from marginkit.methods.torchattacks import TorchAttack
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.norms import L1, L2, LINF
from marginkit.reliability.effort import more
from marginkit.reliability.examine import PASSES, PROBES, examine
from marginkit.reliability.random_search import RandomSearch
from marginkit.table.provenance import Provenance
from marginkit.table.reading import read
from marginkit.table.verdicts import CHECKS, KEY, Verdict, verdicts
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Threat

HONEST = {
    "cross-entropy": ("cross-entropy", "mlp", 20),
    "batch-norm": ("cross-entropy", "elsayed", 3),
    "large-margin": ("large-margin", "mlp", 20),
    "hinge": ("hinge", "mlp", 20),
    "certified": ("certified", "mlp", 12),
    "lipschitz": ("lipschitz-margin", "linear", 20),
}
DIGITS = load("digits")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """An honest model by name, trained once."""
    folder, found = tmp_path_factory.mktemp("honest"), {}

    def get(name: str) -> nn.Module:
        if name not in found:
            loss, architecture, epochs = HONEST[name]
            recipe = Recipe(epochs=epochs, learning_rate=5e-3)
            path = folder / f"{name}.pt"
            train(
                load("digits", Source(split="train")),
                path,
                loss=loss,
                architecture=architecture,
                recipe=recipe,
            )
            found[name] = load_checkpoint(path)[0].model()
        return found[name]

    return get


@pytest.fixture(scope="session")
def adversarially_trained(trained):
    """The cross-entropy model trained on with PGD at 0.1."""
    data = load("digits", Source(split="train"))
    x, y = data.inputs(list(range(len(data)))), torch.from_numpy(data.labels)
    torch.manual_seed(0)
    model = copy.deepcopy(trained("cross-entropy"))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(128):
            moved = x[rows].clone()
            for _ in range(4):
                moved.requires_grad_()
                (g,) = torch.autograd.grad(F.cross_entropy(model(moved), y[rows]), moved)
                moved = (x[rows] + (moved.detach() + 0.04 * g.sign() - x[rows]).clamp(-0.1, 0.1)).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(moved), y[rows]).backward()
            optimizer.step()
    return model.eval()


def verdicts_of(model, methods="nearest", norms=("linf",), first=20, options=None, **settings):
    chosen = configure_methods(methods.split(","), options or {})
    table = measure(model, DIGITS, chosen, norms, first=first, checks=16, **settings)
    return {v["check"]: v for v in table.meta[KEY]["verdicts"]}, table


def raised(model, *args, **kwargs) -> set[str]:
    return {name for name, v in verdicts_of(model, *args, **kwargs)[0].items() if v["raised"]}


@pytest.mark.parametrize("name", HONEST)
def test_honest_models_raise_nothing(trained, name):
    assert raised(trained(name), "first_order,nearest") == set()


def test_adversarial_training_is_not_taken_for_masking(adversarially_trained):
    assert raised(adversarially_trained, "first_order,nearest") == set()


@pytest.mark.parametrize("search", ["deepfool", "fixed_pgd", "torchattacks:PGD"])
def test_honest_models_raise_nothing_under_any_search(trained, search):
    assert raised(trained("cross-entropy"), search) == set()


@pytest.mark.parametrize("masked", MASKED[:1] + MASKED[6:9], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("search", ["deepfool", "fixed_pgd"])
def test_masked_models_are_flagged_under_other_searches(trained, masked, search):
    assert raised(masked(trained("cross-entropy")), search) != set()


SYMPTOMS = {
    "RoundedInput": {"no-gradient", "gradient-free-wins"},
    "Jpeg": {"no-gradient", "gradient-free-wins"},
    "SignActivation": {"no-gradient", "gradient-free-wins"},
    "Argmax": {"no-gradient", "gradient-free-wins"},
    "Saturated": {"no-gradient"},
    "Noisy": {"randomised"},
    "Ridged": {"misleading-gradient", "gradient-free-wins"},
    "WrongGradient": {"misleading-gradient", "gradient-free-wins"},
    "Stairs": {"optimistic-first-order"},
    "BatchStatistics": {"batch-dependent", "batch-statistics"},
    "Sigmoids": {"probabilities"},
}


@pytest.mark.parametrize("masked", MASKED, ids=lambda cls: cls.__name__)
def test_masked_models_are_flagged_by_their_symptoms(trained, masked):
    assert raised(masked(trained("cross-entropy"))) >= SYMPTOMS[masked.__name__]


class Hot(nn.Module):
    """A network at temperature 1e-4: its softmax is saturated, its logits are not."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return 1e4 * self.network(x)


def test_a_temperature_masks_cross_entropy_only(trained):
    """The search follows logit margins, which scale; an attack on cross-entropy is blind."""
    network = trained("cross-entropy")
    plain, hot = (verdicts_of(m)[1]["nearest.linf"].distance for m in (network, Hot(network)))
    np.testing.assert_allclose(hot, plain, rtol=1e-3)
    assert raised(Hot(network)) == set()
    blind = {"fixed_pgd": {"objective": "cross_entropy"}}
    found, table = verdicts_of(Hot(network), "fixed_pgd", options=blind)
    assert found["gradient-free-wins"]["raised"]
    assert "zero_gradient" in {flag.code for flag in table_flags(table, "it")}


class StuckInTraining(nn.Module):
    """BatchNorm that eval() does not reach."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.norm = nn.BatchNorm2d(1)

    def train(self, mode=True):
        return self

    def forward(self, x):
        return self.network(x + 0.01 * self.norm(x))


def test_train_mode_that_eval_does_not_end_is_flagged(trained):
    found, _ = verdicts_of(StuckInTraining(trained("cross-entropy")))
    assert found["batch-statistics"]["figure"] >= 3, "the layer, its mean and its variance"
    assert found["batch-dependent"]["figure"] > 0


def test_a_search_stopped_early_has_not_converged(trained):
    weak = {"fixed_pgd": {"steps": 1, "step_size": 0.3, "eps": [0.3], "starts": 1}}
    assert "not-converged" in raised(trained("cross-entropy"), "fixed_pgd", options=weak)


def test_distances_below_a_grey_level_do_not_survive_8_bits(trained):
    class Steep(nn.Module):
        """Changes its mind within a thousandth of a grey level."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x):
            z = torch.sin(x.flatten(1).mean(1) * 2e4) * self.scale
            return torch.stack([z, -z], 1)

    x = DIGITS.inputs(list(range(40)))
    y = Steep()(x).argmax(1).numpy().astype(np.int64)
    data = replace(DIGITS, inputs=lambda rows: x[rows], labels=y, classes=2)
    table = measure(Steep(), data, configure_methods(["nearest"]), ["linf"], checks=32)
    figures = {v.check: v.figure for v in verdicts(table.provenance)}
    assert figures["eight-bit"] > 0.2
    assert verdicts_of(trained("cross-entropy"))[0]["eight-bit"]["figure"] == 0


# The verdicts -----------------------------------------------------------------------------------------


def test_checks_change_no_number_and_leave_no_trace(trained):
    model = trained("cross-entropy")
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    _, checked = verdicts_of(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    plain = measure(model, DIGITS, configure_methods(["nearest"]), ["linf"], first=20)
    assert KEY not in plain.meta
    np.testing.assert_array_equal(plain["nearest.linf"].distance, checked["nearest.linf"].distance)


def test_verdicts_are_the_same_every_time(trained):
    model = Noisy(trained("cross-entropy"))
    asked = Asked(configure_methods(["nearest"]), ("l2",))
    table = measure(trained("cross-entropy"), DIGITS, asked.methods, asked.norms, first=20)
    first, second = (examine(table, model, DIGITS, asked) for _ in range(2))
    assert first == second
    assert first != examine(table, model, DIGITS, asked, seed=1)


@pytest.mark.quick
def test_every_check_has_words_and_a_function():
    assert PROBES.keys() == CHECKS.keys()
    for name, check in CHECKS.items():
        assert check.source.startswith("arXiv "), name
        assert not check.doubt.endswith("."), name


def test_samples_are_spread_over_the_table(trained):
    """Data sets are often sorted by class."""
    seen = []

    class Listening(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            seen.append(x)
            return self.network(x)

    asked = Asked(configure_methods(["deepfool"]), ("l2",))
    table = measure(trained("cross-entropy"), DIGITS, asked.methods, asked.norms, first=300)
    examine(table, Listening(trained("cross-entropy")), DIGITS, asked, samples=4)
    right = np.flatnonzero(table.predicted == table.label)
    rows = right[np.linspace(0, len(right) - 1, 4).round().astype(int)]
    expected = DIGITS.inputs(table.index[rows].tolist())
    assert any(torch.equal(x, expected) for x in seen)


def test_without_a_search_only_the_model_is_checked(trained):
    found, _ = verdicts_of(trained("cross-entropy"), "first_order")
    assert found["no-gradient"]["figure"] == 0
    assert found["not-converged"]["figure"] is None
    assert found["not-converged"]["note"] == "no search at the input was measured"


def test_a_check_that_fails_says_so_and_nothing_is_lost(trained, monkeypatch):
    def fail(probe):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setitem(PROBES, "not-monotone", fail)
    found, table = verdicts_of(trained("cross-entropy"))
    assert found["not-monotone"]["note"] == "failed: no memory"
    assert found["not-monotone"]["raised"]
    (flag,) = [flag for flag in table_flags(table, "it") if flag.code == "check-failed"]
    assert "not-monotone: the check gave no answer (failed: no memory)" in flag.text
    assert len(table) == 20


def test_verdicts_of_checks_that_are_not_known_are_passed_over():
    good = {"check": "randomised", "raised": True, "figure": 0.5}
    entries = [good, {"check": "made-up", "raised": True}, {**good, "figure": None, "newer": [1]}]
    found = list(verdicts(Provenance.of({KEY: {"verdicts": entries}})))
    assert found == [Verdict("randomised", True, 0.5), Verdict("randomised", True, None)]
    assert not list(verdicts(Provenance.of({})))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (3, "reliability is '3'; expected an object"),
        ({"verdicts": 3}, "reliability.verdicts is '3'; expected a list"),
        ({"verdicts": [3]}, r"reliability.verdicts\[0\] is '3'; expected an object"),
        ({"verdicts": [{}]}, r"reliability.verdicts\[0\] is '{}'; expected an object with 'check'"),
        ({"verdicts": [{"check": []}]}, r"verdicts\[0\].check is '\[\]'; expected text"),
        ({"verdicts": [{"check": "a", "raised": 1}]}, r"\[0\].raised is '1'; expected true or false"),
        ({"verdicts": [{"check": "a", "figure": "\x1b[31m"}]}, r"figure is '\\x1b\[31m'; expected a number"),
    ],
)
def test_verdicts_from_a_file_are_not_believed_blindly(given, message):
    with pytest.raises(MarginkitError, match=message):
        Provenance.of({KEY: given})


@pytest.mark.parametrize("name", METHODS)
def test_more_effort_makes_a_method_of_the_same_name_or_none(name):
    method = METHODS[name]()
    harder = more(method)
    assert harder is None or (type(harder) is type(method) and harder != method)


# What the checks cost ----------------------------------------------------------------------------------


def heard_of(model, methods="first_order,nearest", norms=("l2", "linf"), options=None, **settings):
    """Every check as the listener hears of it, by name."""
    heard = []
    chosen = configure_methods(methods.split(","), options or {})
    settings = {"first": 40, "checks": 32, "on_event": heard.append, **settings}
    measure(model, DIGITS, chosen, norms, **settings)
    return {event.check: event for event in heard if isinstance(event, Checked)}


@pytest.mark.parametrize("masked", [None, *MASKED], ids=lambda cls: cls.__name__ if cls else "honest")
def test_the_checks_keep_to_their_passes(trained, masked):
    model = trained("cross-entropy")
    told = heard_of(masked(model) if masked else model)
    assert told.keys() == PROBES.keys()
    assert sum(event.passes for event in told.values()) <= PASSES
    if masked is None:
        assert sum(event.passes for event in told.values()) <= 2000


@pytest.mark.parametrize("search", ["pgd", "deepfool", "torchattacks:PGD", "nearest"])
def test_the_checks_keep_to_their_passes_whatever_the_search(trained, search):
    thorough = {"nearest": {"effort": "thorough"}} if search == "nearest" else {}
    told = heard_of(trained("cross-entropy"), search, ("linf",), thorough)
    assert sum(event.passes for event in told.values()) <= PASSES


def test_nothing_that_the_table_knows_is_computed_again(trained):
    told = heard_of(trained("cross-entropy"))
    assert told["optimistic-first-order"].passes == 0, "the table estimates"
    assert told["unbounded-fails"].passes == 0, "what was found inside the box is there without it"
    assert heard_of(trained("cross-entropy"), "nearest")["optimistic-first-order"].passes > 0
    kept = heard_of(trained("cross-entropy"), witnesses=True)
    assert kept["not-converged"].passes < 0.8 * told["not-converged"].passes, "it goes on from there"
    assert kept["not-converged"].figure < 0.05


def test_a_search_that_stopped_at_once_has_not_converged_from_its_own_witnesses_either(trained):
    weak = {"nearest": {"effort": "fast", "starts": ["noise:0"], "stages": [[1, 1, 1.0]]}}
    for witnesses in (False, True):
        told = heard_of(trained("cross-entropy"), "nearest", ("l2",), weak, witnesses=witnesses)
        assert told["not-converged"].raised, witnesses


# The search without gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=str)
@pytest.mark.parametrize("shape", [(64,), (1, 8, 8)], ids=["flat", "image"])
def test_random_search_stays_inside_and_finds_what_is_easy(trained, norm, shape):
    network = trained("cross-entropy")
    x, y = DIGITS.inputs(list(range(20))), torch.from_numpy(DIGITS.labels[:20])
    seen = []

    class Reshaped(nn.Module):
        def forward(self, x):
            seen.append(x)
            return network(x.view(-1, 1, 8, 8))

    x = x.view(-1, *shape)
    right = network(x.view(-1, 1, 8, 8)).argmax(1) == y
    x, y = x[right], y[right]
    threat, model = Threat(norm), Reshaped()
    found = METHODS["nearest"]()(model, x, y, threat).upper.to(x)
    hit = RandomSearch(300)(model, x, y, threat, 4 * found, torch.zeros_like(x))
    assert hit.float().mean() > 0.8
    assert not RandomSearch(300)(model, x, y, threat, 0.7 * found, torch.zeros_like(x)).any()
    for i in range(len(x)):  # one by one: those that are hit are not asked on
        seen.clear()
        alone = RandomSearch(300)(model, x[[i]], y[[i]], threat, 4 * found[[i]], torch.zeros_like(x[[i]]))
        assert alone == hit[i]
        for moved in seen:
            assert threat.contains(moved).all()
            assert norm.length(moved - x[[i]]) <= 4.01 * found[i]


def test_random_search_stops_when_enough_are_hit(trained):
    network, asked = trained("cross-entropy"), []
    x, y = DIGITS.inputs(list(range(20))), torch.from_numpy(DIGITS.labels[:20])

    class Counted(nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return network(x)

    here = (Counted(), x, y, Threat(LINF), torch.full((20,), 0.4), torch.zeros_like(x))
    every = RandomSearch()(*here)
    assert every.sum() > 10
    assert asked == sorted(asked, reverse=True), "what is hit is not asked on"
    asked.clear()
    some = RandomSearch()(*here, enough=3)
    assert 3 <= some.sum() < every.sum()
    assert (every | ~some).all()


def test_random_search_is_no_weaker_than_square(trained):
    """At the same radius and number of queries, on what masks gradients and on what does not."""
    networks = [trained("cross-entropy"), *(cls(trained("cross-entropy")) for cls in MASKED[:3])]
    x, y = DIGITS.inputs(list(range(32))), torch.from_numpy(DIGITS.labels[:32])
    ours = theirs = 0
    for network in networks:
        right = network(x).argmax(1) == y
        here = (network, x[right], y[right], Threat(LINF))
        square = TorchAttack("Square", (("eps", 0.2), ("n_queries", 300)))(*here).upper
        radius = torch.full((int(right.sum()),), 0.2)
        ours += int(RandomSearch(300)(*here, radius, torch.zeros_like(x[right])).sum())
        theirs += int(square.isfinite().sum())
    assert theirs > 10
    assert ours >= 0.9 * theirs


# The command ------------------------------------------------------------------------------------------


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


FACTORY = """
import torch
from marginkit.models.checkpoint import load

class Rounded(torch.nn.Module):
    def __init__(self, path):
        super().__init__()
        self.network = load(path)[0].model()
    def forward(self, x):
        return self.network((7 * x).round() / 7)

def rounded(path):
    return Rounded(path)
"""


def test_verdicts_reach_the_file_show_compare_and_the_exit_code(checkpoint_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "masks.py").write_text(FACTORY)
    common = [
        "--dataset",
        "digits",
        "--limit",
        30,
        "--option",
        "nearest.effort=fast",
        "--norms",
        "linf",
        "--methods",
        "nearest",
    ]
    run("measure", "--model", checkpoint_path, *common, "--strict", "--out", "honest.h5")
    masked = ["--model", "masks:rounded", "--app-dir", ".", "--arch-option", f"path={checkpoint_path}"]
    out = run("measure", *masked, *common, "--strict", "--out", "masked.h5", "--details", code=3).stdout
    assert "Before you believe it" in out
    assert "wrote masked.h5" in out
    assert "the gradient is zero or not finite" in " ".join(
        run("show", "masked.h5", "--details").stdout.split()
    )
    assert "Before you believe it" not in run("show", "honest.h5", "--details").stdout
    found = run("compare", "honest.h5", "masked.h5", "--strict", "--json", "-", code=3).stdout
    assert {"no-gradient", "gradient-free-wins"} <= {flag["code"] for flag in json.loads(found)["flags"]}
    run("measure", *masked, *common, "--checks", 0, "--out", "unchecked.h5")
    assert KEY not in read("unchecked.h5").meta
    meta = read("masked.h5").meta[KEY]
    assert 20 < meta["samples"] <= 30
    assert len(meta["verdicts"]) == len(CHECKS)


def test_a_merged_or_cut_table_keeps_its_verdicts(trained, tmp_path):
    _, table = verdicts_of(trained("cross-entropy"))
    write(table, tmp_path / "t.h5")
    assert read(tmp_path / "t.h5").rows(np.arange(3)).meta[KEY] == table.meta[KEY]

"""The loop over batches: what is asked is what the table holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from closed_form import linear
from PIL import Image
from quickly import measure, measure_file
from torch import nn

from marginkit.errors import MarginkitError, UsageError
from marginkit.kinds import Kind, Status
from marginkit.measurement.activation_variance import activation_variance
from marginkit.methods import METHODS
from marginkit.methods.configure import configure_methods
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.models.digest import model_digest
from marginkit.models.loading import Loading
from marginkit.norms import NORMS
from marginkit.table.reading import read
from marginkit.table.writing import write

MEASURED = [name for name, method in METHODS.items() if method.kind is not Kind.EXACT]  # these have two ends
FAST = {"pgd": {"steps": 5, "rounds": 4}, "crown": {"precision": 0.01}, "smoothing": {"n0": 20, "n": 50}}


@pytest.fixture(scope="module")
def table(model, digits):
    return measure(model, digits, configure_methods(MEASURED, FAST), list(NORMS), first=40)


def test_there_is_a_column_for_every_method_norm_and_layer(table):
    layers = ["input", "hidden1", "hidden2"]
    estimates = [f"first_order.{norm}.{layer}" for norm in NORMS for layer in layers]
    searched = [f"{name}.{norm}" for name in MEASURED if name != "first_order" for norm in NORMS]
    assert [column.name for column in table.columns] == estimates + searched
    assert all(column.kind is METHODS[column.method].kind for column in table.columns)


def test_every_sample_is_there_once_in_order(table, digits, model):
    assert table.index.tolist() == list(range(40))
    assert table.label.tolist() == digits.labels[:40].tolist()
    scores = model(digits.inputs(list(range(40))))
    assert table.predicted.tolist() == scores.argmax(1).tolist()
    assert ((table.logit_margin > 0) == (table.predicted == table.label)).all()


def test_misclassified_samples_are_marked_in_every_column(table):
    wrong = table.predicted != table.label
    assert 0 < wrong.sum() < 40
    for column in table.columns:
        if column.kind is Kind.SMOOTHED:
            continue
        assert ((column.status == Status.MISCLASSIFIED) == wrong).all()
        expected = column.distance < 0 if column.kind is Kind.ESTIMATE else column.distance == 0
        assert (expected == wrong).all()


def test_the_batch_size_changes_nothing_but_rounding(table, model, digits):
    again = measure(model, digits, configure_methods(MEASURED, FAST), list(NORMS), first=12, batch_size=5)
    for one, other in zip(table.rows(slice(12)).columns, again.columns, strict=True):
        assert (one.status == other.status).all()
        found = one.status == 0
        ratio = other.distance[found] / one.distance[found]
        assert np.median(np.abs(ratio - 1)) < 1e-5
        assert (np.abs(ratio - 1) < 0.05).all()


def test_a_written_table_is_the_table(tmp_path, table):
    write(table, tmp_path / "t.h5")
    found = read(tmp_path / "t.h5")
    assert found.meta == table.meta
    assert [c.name for c in found.columns] == [c.name for c in table.columns]


def test_the_file_says_what_was_measured(checkpoint_path, tmp_path, digits):
    found, _ = measure_file(
        checkpoint_path, ["deepfool"], ["l2"], first=3, command=["marginkit", "measure"], seed=4
    )
    meta = found.meta
    assert meta["command"] == ["marginkit", "measure"]
    assert meta["seed"] == 4
    assert meta["dataset"] == {"name": "digits", "split": "test", "fingerprint": digits.fingerprint}
    assert meta["threat"] == {"low": 0.0, "high": 1.0}
    assert meta["checkpoint"]["architecture"] == "mlp"
    assert len(meta["checkpoint"]["sha256"]) == 64
    assert meta["checkpoint"]["training"]["loss"] == "cross-entropy"
    assert "history" not in meta["checkpoint"]["training"]
    assert found["deepfool.l2"].options["steps"] == 50


def test_witnesses_are_kept_when_asked_for(model, digits):
    methods = configure_methods(["deepfool", "first_order"])
    kept = measure(model, digits, methods, ["linf"], first=5, witnesses=True)
    assert kept["deepfool.linf"].witness.shape == (5, 1, 8, 8)
    assert kept["first_order.linf.input"].witness is None
    assert measure(model, digits, methods, ["linf"], first=5)["deepfool.linf"].witness is None


def test_the_seed_reaches_the_methods_that_draw():
    assert configure_methods(["pgd", "deepfool"], {}, {"seed": 9})["pgd"] == METHODS["pgd"](seed=9)
    assert configure_methods(["pgd"], {"pgd": {"seed": "2"}}, {"seed": 9})["pgd"] == METHODS["pgd"](seed=2)


def test_methods_may_be_named(model, digits):
    options = {"deepfool": {"steps": "7"}, "first_order": {"layers": "input,hidden2"}}
    names = ["first_order", "deepfool", "again=pgd"]
    named = measure(model, digits, names, ["l2"], options=options, seed=3, first=4)
    made = measure(model, digits, configure_methods(names, options, {"seed": 3}), ["l2"], first=4)
    assert [c.name for c in named.columns] == [c.name for c in made.columns]
    assert [c.options for c in named.columns] == [c.options for c in made.columns]
    assert named["again.l2"].options["seed"] == 3
    hidden = measure(model, digits, ["first_order"], ["l2"], layers=("hidden",), first=4)
    assert [c.layer for c in hidden.columns] == ["hidden1", "hidden2"]
    with pytest.raises(UsageError, match="options are for methods given by name"):
        measure(model, digits, {"deepfool": METHODS["deepfool"]()}, options=options, first=4)


def test_nothing_but_a_model_and_data_is_needed(model, digits):
    table = measure(model, digits, first=3)
    kinds = {(column.method, column.norm, column.kind) for column in table.columns}
    estimated = {("first_order", norm, Kind.ESTIMATE) for norm in ("l2", "linf")}
    assert kinds == estimated | {("nearest", norm, Kind.UPPER) for norm in ("l2", "linf")}


def test_the_digest_tells_weights_apart_and_nothing_else():
    def digest(*values, order=("a", "b")):
        module = nn.Module()
        for name in order:
            value = values[("a", "b").index(name)]
            module.register_buffer(name, value)
        return model_digest(module)

    a, b = torch.arange(6.0), torch.tensor([True, False])
    same = digest(a, b)
    assert len(same) == 64
    assert same == digest(a.clone(), b, order=("b", "a"))
    others = [(a + 1e-6, b), (a.double(), b), (a.view(2, 3), b), (a, ~b), (a.bfloat16(), b)]
    assert len({same, *(digest(*other) for other in others)}) == 6


@pytest.mark.parametrize(
    "other", [{"scale": 3.0}, {"scale": 2.0, "clip": [1, "a"]}, torch.ones(2), "x"], ids=str
)
def test_the_digest_sees_what_a_module_keeps_beside_tensors(other):
    class Scaled(nn.Linear):
        state: object = None

        def get_extra_state(self):
            return self.state

    def digest(state):
        torch.manual_seed(0)
        module = Scaled(2, 2)
        module.state = state
        return model_digest(module)

    assert digest({"scale": 2.0}) == digest({"scale": 2.0}) != digest(other)


def test_a_model_is_the_same_by_whichever_way_it_was_given(model, digits, tmp_path, monkeypatch):
    """A factory's and a module's digest agree."""
    (tmp_path / "made.py").write_text("def build(classes=10):\n    return MODEL\n")
    monkeypatch.syspath_prepend(tmp_path)
    import made  # type: ignore[import-not-found]

    made.MODEL = model
    found, _ = measure_file("made:build", ["first_order"], ["l2"], dataset="digits", first=2)
    plain = measure(model, digits, ["first_order"], ["l2"], first=2)
    assert found.meta["checkpoint"]["sha256"] == plain.meta["model"]


def test_a_model_of_one_class_data_can_be_measured(model, digits):
    ones = np.flatnonzero(digits.labels == 1)[:4]
    only = replace(digits, labels=digits.labels[ones], inputs=lambda p: digits.inputs(ones[p].tolist()))
    assert (measure(model, only, configure_methods(["deepfool"]), ["l2"]).label == 1).all()


def test_a_float64_model_is_measured_in_float64(digits):
    case = linear(3)
    data = replace(digits, labels=case.y.numpy(), shape=(6,), inputs=lambda p: case.x[p].float(), classes=3)
    found = measure(case.model, data, configure_methods(["deepfool"]), ["l2"], bounds=(None, None))
    np.testing.assert_allclose(found["deepfool.l2"].distance, case.distance(NORMS["l2"]), rtol=1e-5)


def test_any_module_can_be_measured_and_keeps_its_mode(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).train()
    measure(model, digits, configure_methods(["first_order"]), ["l2"], first=4)
    assert model.training


@pytest.mark.parametrize(
    ("methods", "norms", "options", "message"),
    [
        (["deepfol"], ["l2"], {}, "unknown method 'deepfol'; choose from first_order"),
        (["deepfool"], ["l3"], {}, "unknown norm 'l3'; choose from l1, l2, linf"),
        (["deepfool"], ["l2"], {"pgd": {"steps": 1}}, "options are given for 'pgd'"),
        (["deepfool"], ["l2"], {"deepfool": {"step": 1}}, "deepfool has no option 'step'; it has steps"),
    ],
)
def test_unknown_names_are_refused(checkpoint_path, methods, norms, options, message):
    with pytest.raises(UsageError, match=message):
        measure_file(checkpoint_path, methods, norms, options=options)


def test_labels_beyond_the_models_classes_are_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(MarginkitError, match=r"labels must lie in 0\.\.4"):
        measure(model, digits, configure_methods(["deepfool"]), ["l2"])


def test_inputs_that_do_not_fit_the_model_are_refused(checkpoint_path, tmp_path):
    np.savez(tmp_path / "flat.npz", x=np.ones((2, 5)), y=np.array([0, 1]))
    with pytest.raises(MarginkitError, match=r"has inputs \[5\], but .*model.pt takes \[1, 8, 8\]"):
        measure_file(checkpoint_path, ["deepfool"], dataset=f"npz:{tmp_path / 'flat.npz'}")


def test_a_folder_of_other_sizes_says_which_option_makes_them_fit(checkpoint_path, tmp_path):
    for name in "01":
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((9, 12), np.uint8)).save(tmp_path / name / "a.png")
    with pytest.raises(MarginkitError, match=r"but .*model.pt takes \[1, 8, 8\]: add --image-size 8$"):
        measure_file(checkpoint_path, ["deepfool"], dataset=f"imagefolder:{tmp_path}")


def test_bare_weights_are_measured_with_an_architecture(checkpoint_path, tmp_path):
    state = {f"module.{key}": value for key, value in load_checkpoint(checkpoint_path)[0].state.items()}
    torch.save(state, tmp_path / "weights.pt")
    given = {"loading": Loading("mlp", {"hidden": "24,16"}), "dataset": "digits", "first": 3}
    found, remarks = measure_file(tmp_path / "weights.pt", ["deepfool"], **given)
    expected, _ = measure_file(checkpoint_path, ["deepfool"], first=3)
    np.testing.assert_array_equal(found["deepfool.l2"].distance, expected["deepfool.l2"].distance)
    assert remarks == ["took the prefix 'module.' off every weight's name"]
    with pytest.raises(UsageError, match="give --dataset too"):
        measure_file(tmp_path / "weights.pt", ["deepfool"], loading=Loading("mlp"))


def test_inputs_are_hashed_wherever_they_are(digits):
    """The same input has the same hash in another file, order and batch; another input has another."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    methods = configure_methods(["first_order"])
    whole = measure(model, digits, methods, ["l2"], first=40)
    again = measure(model, digits, methods, ["l2"], first=30, batch_size=7)
    assert whole.hash is not None
    assert whole.hash.dtype == np.uint64
    np.testing.assert_array_equal(whole.hash[:30], again.hash)
    assert len(np.unique(whole.hash)) == 40


def test_activation_variances_are_numpys(digits):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    table = measure(model, digits, configure_methods(["first_order"]), ["l2"], first=5, batch_size=64)
    x = digits.inputs(list(range(len(digits)))).flatten(1)
    with torch.no_grad():
        hidden = model[1](x)
    expected = {"input": float(x.numpy().var(0).sum()), "1": float(hidden.numpy().var(0).sum())}
    assert table.meta["activation_variance"] == pytest.approx(expected, rel=1e-5)


def test_variances_of_what_does_not_fit_into_memory_are_the_same(digits):
    torch.manual_seed(1)
    x, heard = digits.inputs(list(range(20))), []

    class Narrow(nn.Linear):
        def forward(self, rows):
            if len(rows) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(rows)

    model = nn.Sequential(nn.Flatten(), Narrow(64, 12))
    found = activation_variance(model, [x[:8], x[8:]], ["1"], heard.append)
    with torch.no_grad():
        hidden = nn.functional.linear(x.flatten(1), model[1].weight, model[1].bias)
    assert found["1"] == pytest.approx(float(hidden.double().numpy().var(0).sum()), rel=1e-5)
    assert [(event.column, event.samples) for event in heard] == [
        ("activation variance", n) for n in (8, 4, 4, 12, 6, 6)
    ]


def test_inputs_are_kept_with_witnesses_only(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    methods = configure_methods(["deepfool"])
    kept = measure(model, digits, methods, ["l2"], first=4, witnesses=True)
    np.testing.assert_array_equal(kept.input, digits.inputs(list(range(4))).numpy())
    assert measure(model, digits, methods, ["l2"], first=4).input is None

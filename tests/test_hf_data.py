"""Data sets of Hugging Face's library and models of RobustBench: nothing is fetched unasked."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.errors import MarginkitError, UsageError
from marginkit.models.loading import Loading, load_subject

there = pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="datasets is not installed")
NAMES = ["cat", "dog", "owl"]


@pytest.fixture
def library(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    return pytest.importorskip("datasets")


def pixels(count, size=8):
    return np.random.default_rng(3).integers(0, 256, (count, size, size, 3), np.uint8)


def pictures(library, count=6, size=8, column="image", label="label", names=NAMES):
    rows = {
        column: [Image.fromarray(one) for one in pixels(count, size)],
        label: [i % 3 for i in range(count)],
    }
    features = library.Features({column: library.Image(), label: library.ClassLabel(names=names)})
    return library.Dataset.from_dict(rows, features)


@there
@pytest.mark.filterwarnings("ignore")
def test_a_saved_folder_gives_its_split_with_names(library, tmp_path):
    both = library.DatasetDict({"train": pictures(library, 6), "test": pictures(library, 3)})
    both.save_to_disk(tmp_path / "set")
    data = load(f"hf:{tmp_path / 'set'}")
    assert (len(data), data.shape, data.class_names) == (3, (3, 8, 8), tuple(NAMES))
    expected = torch.from_numpy(pixels(3).transpose(0, 3, 1, 2) / 255).float()
    torch.testing.assert_close(data.inputs([2, 0]), expected[[2, 0]])
    assert data.remarks == ()
    assert data.fingerprint == load(f"hf:{tmp_path / 'set'}").fingerprint
    train = load(f"hf:{tmp_path / 'set'}", Source(split="train"))
    assert len(train) == len(load(f"hf:{tmp_path / 'set' / 'train'}")) == 6
    assert train.fingerprint != data.fingerprint
    resized = load(f"hf:{tmp_path / 'set'}", Source(image_size=4))
    assert resized.shape == (3, 4, 4)
    assert load(f"hf:{tmp_path / 'set'}", bounds=(0.0, 255.0)).inputs([0]).max() > 200


@there
@pytest.mark.filterwarnings("ignore")
def test_another_split_is_said_and_an_unknown_one_lists_them(library, tmp_path):
    library.DatasetDict({"train": pictures(library), "validation": pictures(library, 3)}).save_to_disk(
        tmp_path
    )
    assert load(f"hf:{tmp_path}").remarks == (f"hf:{tmp_path} has no split 'test': 'validation' is taken",)
    library.DatasetDict({"odd": pictures(library)}).save_to_disk(tmp_path / "b")
    with pytest.raises(
        MarginkitError, match=r"has the splits odd, none of which is 'test': name one, as in .*/odd"
    ):
        load(f"hf:{tmp_path / 'b'}")
    assert len(load(f"hf:{tmp_path / 'b' / 'odd'}")) == 6


@there
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("x", "y"), [("img", "fine_label"), ("pixel_values", "labels"), ("photo", "kind")])
def test_columns_are_found_by_name_or_by_kind(library, tmp_path, x, y):
    pictures(library, column=x, label=y).save_to_disk(tmp_path)
    assert load(f"hf:{tmp_path}").labels.tolist() == [0, 1, 2, 0, 1, 2]


@there
@pytest.mark.filterwarnings("ignore")
def test_rows_of_numbers_are_inputs_and_columns_can_be_named(library, tmp_path):
    x = np.random.default_rng(0).random((4, 2, 3)).astype("f4")
    rows = library.Dataset.from_dict({"a": x.tolist(), "b": [0, 1, 1, 0], "c": ["p", "q", "r", "s"]})
    rows.save_to_disk(tmp_path)
    data = load(f"hf:{tmp_path}", Source(array_keys={"x": "a", "y": "b"}))
    torch.testing.assert_close(data.inputs([0, 1, 2, 3]), torch.from_numpy(x))
    assert (data.classes, data.class_names) == (2, ())
    with pytest.raises(
        MarginkitError, match=r"has the columns a, b, c: say which holds the inputs with --array"
    ):
        load(f"hf:{tmp_path}")
    with pytest.raises(MarginkitError, match=r"c is .*; expected a class from 0 a row"):
        load(f"hf:{tmp_path}", Source(array_keys={"x": "a", "y": "c"}))
    with pytest.raises(MarginkitError, match="expected numbers or pictures"):
        load(f"hf:{tmp_path}", Source(array_keys={"x": "c", "y": "b"}))


@there
@pytest.mark.filterwarnings("ignore")
def test_classes_are_numbered_as_the_models(library, tmp_path):
    pictures(library).save_to_disk(tmp_path)
    data = load(f"hf:{tmp_path}", Source(class_names=("owl", "ant", "dog", "cat")))
    assert data.labels.tolist() == [3, 2, 0, 3, 2, 0]
    assert data.class_names == ("owl", "ant", "dog", "cat")
    assert "numbered as the model's" in data.remarks[0]
    with pytest.raises(
        MarginkitError, match="has the class 'dog', which the model does not know; expected cat, owl"
    ):
        load(f"hf:{tmp_path}", Source(class_names=("cat", "owl")))


@there
@pytest.mark.filterwarnings("ignore")
def test_nothing_is_fetched_unasked(library, tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr("socket.socket.connect", no_network)
    with pytest.raises(MarginkitError, match=r"hf:org/absent can't be read .*add --download") as found:
        load("hf:org/absent")
    assert "the network was asked" not in str(found.value)
    with pytest.raises(MarginkitError, match=r"can't be read"):
        load(f"hf:{tmp_path}")  # an empty folder


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MarginkitError, match=r"datasets is not installed: pip install 'marginkit\[datasets\]'"
    ):
        load("hf:org/name")


@pytest.fixture
def zoo(monkeypatch, tmp_path):
    """A package that makes linear models, and notes what it was asked for."""
    calls = []

    def load_model(**asked):
        calls.append(asked)
        path = os.path.join(asked["model_dir"], asked["dataset"], asked["threat_model"], asked["model_name"])
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        model.load_state_dict(torch.load(f"{path}.pt"))
        return model

    package = SimpleNamespace(utils=SimpleNamespace(load_model=load_model))
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_model_of_robustbench_is_taken_from_its_folder(zoo, tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    folder = tmp_path / "zoo" / "cifar10" / "L2"
    folder.mkdir(parents=True)
    torch.save(model.state_dict(), folder / "Some2020Model.pt")
    options = {"model_dir": str(tmp_path / "zoo"), "threat_model": "L2"}
    found = load_subject("robustbench:Some2020Model", Loading(options=options), "digits")
    x = found.data.inputs([0, 1])
    torch.testing.assert_close(found.model(x), model(x))
    assert zoo[0]["dataset"] == "cifar10"
    assert "normalises its inputs itself" in found.remarks[0]


def test_a_model_that_robustbench_would_fetch_is_refused(zoo, monkeypatch):
    with pytest.raises(
        MarginkitError, match=r"models/cifar10/Linf/Some2020Model\.pt is missing; add --download"
    ):
        load_subject("robustbench:Some2020Model", Loading(), "digits")
    assert zoo == []
    with pytest.raises(MarginkitError, match=r"robustbench:Some2020Model can't be made: FileNotFoundError"):
        load_subject("robustbench:Some2020Model", Loading(download=True), "digits")
    with pytest.raises(UsageError, match="its options are dataset, threat_model, model_dir"):
        load_subject("robustbench:Some2020Model", Loading(options={"depth": "3"}), "digits")
    monkeypatch.setitem(sys.modules, "robustbench", None)
    with pytest.raises(MarginkitError, match="robustbench is not installed: pip install robustbench"):
        load_subject("robustbench:Some2020Model", Loading(), "digits")

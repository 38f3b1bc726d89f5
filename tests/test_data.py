"""Data sets: what is read, what is refused, what identifies them."""

import gzip
import struct
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import DATASETS, load
from marginkit.errors import MarginkitError, UsageError


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def good(n=5):
    return {"x": np.linspace(0, 1, n * 4).reshape(n, 4), "y": np.arange(n) % 3}


def test_digits_are_split_the_same_way_always():
    train, test = (load("digits", Source(split=split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (1442, 355)
    assert train.shape == (1, 8, 8)
    assert train.classes == 10
    assert train.fingerprint != test.fingerprint
    assert load("digits").fingerprint == test.fingerprint
    x = test.inputs(list(range(len(test))))
    assert x.dtype == torch.float32
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    assert set(np.bincount(test.labels)) <= {34, 35, 36}, "classes are balanced"


def test_batches_carry_positions_and_keep_order():
    data = load("digits")
    whole = list(batches(data, 100))
    assert torch.equal(torch.cat([index for index, _, _ in whole]), torch.arange(355))
    assert [len(y) for _, _, y in whole] == [100, 100, 100, 55]
    (index, x, y), *_ = batches(data, 3, positions=[7, 300, 2])
    assert index.tolist() == [7, 300, 2]
    assert torch.equal(x[1], data.inputs([300])[0])
    assert y.tolist() == data.labels[[7, 300, 2]].tolist()


def test_workers_change_nothing():
    data = load("digits")
    for alone, helped in zip(batches(data, 128), batches(data, 128, workers=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("shape", [(6,), (1, 4, 4), (2, 3, 4, 5)])
def test_npz_takes_any_rank(tmp_path, shape):
    x = np.random.default_rng(0).random((8, *shape))
    data = load(npz(tmp_path / "a.npz", x=x, y=np.arange(8) % 4))
    assert data.shape == shape
    assert data.classes == 4
    assert np.allclose(data.inputs([3, 1]).numpy(), x[[3, 1]])


def test_npz_bytes_are_scaled_to_one(tmp_path):
    data = load(npz(tmp_path / "a.npz", x=np.array([[0, 255]], np.uint8), y=np.array([1])))
    assert data.inputs([0]).tolist() == [[0.0, 1.0]]


def test_npz_has_a_test_split_where_it_is_given(tmp_path):
    spec = npz(tmp_path / "a.npz", **good(5), x_test=np.ones((2, 4)), y_test=np.array([0, 1]))
    assert len(load(spec, Source(split="train"))) == 5
    assert len(load(spec, Source(split="test"))) == 2
    spec = npz(tmp_path / "b.npz", **good(5))
    assert load(spec, Source(split="train")).fingerprint == load(spec, Source(split="test")).fingerprint


def test_the_fingerprint_sees_values_labels_shape_and_dtype(tmp_path):
    base = good()
    variants = [
        base,
        {**base, "x": base["x"] * 0.999},
        {**base, "y": (base["y"] + 1) % 3},
        {**base, "x": base["x"].reshape(5, 2, 2)},
        {**base, "x": base["x"].astype(np.float32)},
    ]
    prints = [load(npz(tmp_path / "a.npz", **arrays)).fingerprint for arrays in variants]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((5, 4), np.nan)}, "NaN or infinite values, first in sample 0"),
        ({"x": np.full((5, 4), 7.0)}, r"runs from 7 to 7, outside the box \[0, 1\].*--bounds"),
        ({"x": np.full((5, 4), -0.1)}, "outside the box"),
        ({"y": np.array([0, 1, 2, -1, 0])}, "the label -1: labels must count from 0"),
        ({"y": np.arange(5) / 2}, r"y is float64 \(5,\); expected integers of shape \[5\]"),
        ({"y": np.arange(4)}, r"y is int64 \(4,\); expected integers of shape \[5\]"),
        ({"x": np.arange(5.0)}, r"x is float64 \(5,\); expected numbers of shape"),
        ({"x": np.array([["a"] * 4] * 5)}, "x is <U1"),
        ({"x": np.ones((0, 4)), "y": np.arange(0)}, "has no samples"),
    ],
)
def test_bad_arrays_are_refused_in_a_sentence(tmp_path, change, message):
    with pytest.raises(MarginkitError, match=message):
        load(npz(tmp_path / "a.npz", **{**good(), **change}))


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object), y=np.array([0]))
    np.savez(tmp_path / "other.npz", images=np.ones(3))
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("not a zip")
    (tmp_path / "half.npz").write_bytes((tmp_path / "pickled.npz").read_bytes()[:100])
    for name, message in [
        ("pickled.npz", "not an .npz file of plain arrays.*it holds object: objects, which only unpickling"),
        ("other.npz", "lacks 'x': expected x and y"),
        ("single.npy", "not an .npz file"),
        ("text.npz", "not an .npz file"),
        ("half.npz", "not an .npz file"),
        ("absent.npz", "no such file"),
    ]:
        with pytest.raises(MarginkitError, match=message):
            load(f"npz:{tmp_path / name}")


def test_other_bounds_admit_other_data(tmp_path):
    spec = npz(tmp_path / "a.npz", x=np.array([[-3.0, 9.0]]), y=np.array([1]))
    assert load(spec, bounds=(None, None)).inputs([0]).tolist() == [[-3.0, 9.0]]
    assert len(load(spec, bounds=(-5.0, 10.0))) == 1
    with pytest.raises(MarginkitError, match="outside the box"):
        load(spec, bounds=(-5.0, None)) and load(spec, bounds=(None, 5.0))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown data set 'digit'; choose from digits, mnist"),
        ("npz", "expected 'npz:FILE'"),
        ("digits:5", "expected 'digits'"),
    ],
)
def test_unknown_data_sets_are_refused(spec, message):
    with pytest.raises(UsageError, match=message):
        load(spec)


@pytest.mark.parametrize("name", [n for n in DATASETS if n not in ("digits", "npz", "imagefolder")])
def test_absent_torchvision_data_sets_say_what_to_do(tmp_path, name):
    with pytest.raises(MarginkitError, match=f"{name} is not in .*: add --download, or"):
        load(name, Source(root=tmp_path))


def test_torchvision_files_are_read_as_it_lays_them_out(tmp_path):
    """Three made images where torchvision looks for MNIST."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        with gzip.open(raw / f"{part}-images-idx3-ubyte.gz", "wb") as file:
            file.write(struct.pack(">iiii", 2051, 3, 28, 28) + images.tobytes())
        with gzip.open(raw / f"{part}-labels-idx1-ubyte.gz", "wb") as file:
            file.write(struct.pack(">ii", 2049, 3) + bytes([7, 0, 9]))
    for path in raw.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    data = load("mnist", Source(root=tmp_path))
    assert data.labels.tolist() == [7, 0, 9]
    assert data.classes == 10
    assert np.allclose(data.inputs([1]).numpy(), images[1] / 255)
    assert data.shape == (1, 28, 28)


@pytest.mark.parametrize(
    ("spec", "name", "stored", "labels"),
    [
        ("cifar10", "CIFAR10", (3, 32, 32, 3), "targets"),
        ("cifar100", "CIFAR100", (3, 32, 32, 3), "targets"),
        ("svhn", "SVHN", (3, 3, 32, 32), "labels"),
        ("kmnist", "KMNIST", (3, 28, 28), "targets"),
    ],
)
def test_torchvision_arrays_become_channels_first(monkeypatch, spec, name, stored, labels):
    images = np.random.default_rng(0).integers(0, 256, stored, dtype=np.uint8)

    def fake(root, download, **split):
        assert split in ({"train": False}, {"split": "test"})
        return Namespace(**{"data": images, labels: [0, 1, 2]})

    monkeypatch.setattr(f"torchvision.datasets.{name}", fake)
    data = load(spec)
    channels_last = stored[-1] == 3
    assert data.shape == ((3, 32, 32) if len(stored) == 4 else (1, 28, 28))
    pixel = images[2, 5, 7] if channels_last or len(stored) == 3 else images[2, :, 5, 7]
    assert np.allclose(data.inputs([2])[0, :, 5, 7].numpy(), pixel / 255)


def image_folder(root, size=(6, 5), splits=("",)):
    generator = np.random.default_rng(0)
    for split in splits:
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return f"imagefolder:{root}"


def test_image_folders_have_a_class_a_folder(tmp_path):
    data = load(image_folder(tmp_path))
    assert data.shape == (3, 6, 5)
    assert data.labels.tolist() == [0, 0, 1, 1]
    _, x, _ = next(batches(data, 4))
    assert x.shape == (4, 3, 6, 5)
    resized = load(f"imagefolder:{tmp_path}", Source(image_size=4))
    assert resized.shape == (3, 4, 4)
    assert resized.fingerprint != data.fingerprint


def test_image_folders_have_splits(tmp_path):
    spec = image_folder(tmp_path, splits=("train", "val"))
    train, test = load(spec, Source(split="train")), load(spec, Source(split="test"))
    assert train.shape == test.shape == (3, 6, 5)
    assert not torch.equal(train.inputs([0]), test.inputs([0]))


def test_images_of_several_sizes_say_what_to_do(tmp_path):
    spec = image_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "cat" / "0.png")
    with pytest.raises(MarginkitError, match=r"several sizes.*--image-size"):
        list(batches(load(spec), 4))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(MarginkitError, match="no folders of images"):
        load(f"imagefolder:{tmp_path}")

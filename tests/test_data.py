"""Data sets: what is read, what is refused, what identifies them."""

import gzip
import struct
from argparse import Namespace

import numpy as np
import pytest
import torch
from PIL import Image

from marginkit.data.dataset import Source, batches
from marginkit.data.sources import DATASETS, NEEDS_ARGUMENT, load
from marginkit.errors import MarginkitError, UsageError


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def good(n=5):
    return {"x": np.linspace(0, 1, n * 4).reshape(n, 4), "y": np.arange(n) % 3}


@pytest.mark.quick
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


@pytest.mark.quick
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


@pytest.mark.quick
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


@pytest.mark.parametrize("name", [n for n in DATASETS if n != "digits" and n not in NEEDS_ARGUMENT])
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


def picture(path, value, mode="RGB", size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        Image.fromarray(np.full(size, value, kind)).save(path)
    else:
        Image.new(mode, size, value).save(path)


def folder(root, names, count=1, value=(9, 9, 9)):
    for name in names:
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(root / name / f"{i}.png", value)
    return f"imagefolder:{root}"


@pytest.mark.parametrize(
    ("names", "order"),
    [
        ([str(i) for i in range(12)], [str(i) for i in range(12)]),
        (["007", "10", "9"], ["007", "9", "10"]),
        (["b", "a", "C"], ["C", "a", "b"]),
        (["10", "9", "other"], ["10", "9", "other"]),
    ],
)
def test_classes_are_in_the_order_of_numbers_or_of_names(tmp_path, names, order):
    data = load(folder(tmp_path, names))
    assert list(data.class_names) == order
    assert data.classes == len(names)
    assert data.about()["classes"] == order


def test_hidden_folders_and_files_are_no_classes_and_empty_folders_are(tmp_path):
    spec = folder(tmp_path, ["cat", "dog"])
    for name in (".git", "__MACOSX", ".ipynb_checkpoints"):
        picture(tmp_path / name / "0.png", 0)
    picture(tmp_path / "dog" / "._0.png", 0)
    (tmp_path / "bird").mkdir()
    data = load(spec)
    assert data.class_names == ("bird", "cat", "dog")
    assert data.labels.tolist() == [1, 2]


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_a_folder_is_numbered_as_the_model_is(tmp_path, missing):
    names = ("a", "b", "c")
    data = load(folder(tmp_path, [n for n in names if n != missing]), Source(class_names=names))
    assert data.labels.tolist() == [i for i, name in enumerate(names) if name != missing]
    assert data.classes == 3
    assert f"no folder for 1 of 3 classes: {missing!r}" in data.remarks[0]


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_a_test_split_is_numbered_as_the_training_split(tmp_path, missing):
    folder(tmp_path / "train", "abc")
    folder(tmp_path / "test", [n for n in "abc" if n != missing])
    data = load(f"imagefolder:{tmp_path}")
    assert data.labels.tolist() == [i for i, name in enumerate("abc") if name != missing]


def test_classes_that_the_model_does_not_know_are_named(tmp_path):
    spec = folder(tmp_path, ["a", "zebra"])
    with pytest.raises(
        MarginkitError, match="has the class 'zebra', which the model does not know; expected 'a', 'b'"
    ):
        load(spec, Source(class_names=("a", "b")))
    assert "is numbered by its own folders, 0 to 1: a, zebra" in load(spec).remarks[0]
    assert not load(spec, Source(fresh=True)).remarks


@pytest.mark.parametrize(
    ("mode", "ending", "value", "expected"),
    [
        ("L", "png", 51, 0.2),
        ("RGB", "png", (51, 51, 51), 0.2),
        ("RGBA", "png", (51, 51, 51, 255), 0.2),
        ("P", "png", 0, 0.0),
        ("1", "png", 1, 1.0),
        ("CMYK", "tiff", (0, 0, 0, 255), 0.0),
        ("I;16", "png", 13107, 0.2),
        ("I;16", "tiff", 65535, 1.0),
        ("F", "tiff", 0.2, 0.2),
    ],
)
@pytest.mark.parametrize("size", [None, 2])
def test_pictures_are_scaled_by_their_type(tmp_path, mode, ending, value, expected, size):
    picture(tmp_path / "a" / f"0.{ending}", value, mode)
    picture(tmp_path / "b" / "0.png", (255, 0, 0))
    x = load(f"imagefolder:{tmp_path}", Source(image_size=size)).inputs([0, 1])
    assert x.shape == (2, 3, size or 4, size or 4)
    assert torch.allclose(x[0], torch.tensor(expected), atol=1e-5)
    assert x[1, :, 0, 0].tolist() == [1, 0, 0]
    scaled = load(f"imagefolder:{tmp_path}", Source(image_size=size), bounds=(0.0, 255.0)).inputs([0, 1])
    assert torch.allclose(scaled, 255 * x, atol=1e-2)


@pytest.mark.parametrize(
    ("mode", "value", "message"),
    [
        ("I", 70000, "0.tiff has pixels of 32-bit integers from 70000 to 70000"),
        ("I", 200, "0.tiff has pixels of 32-bit integers from 200"),
        ("F", 200.0, "0.tiff has pixels of floating-point numbers from 200"),
        ("F", float("nan"), "0.tiff has pixels of floating-point numbers from nan"),
    ],
)
def test_pictures_without_a_scale_are_named(tmp_path, mode, value, message):
    picture(tmp_path / "a" / "0.tiff", value, mode)
    with pytest.raises(MarginkitError, match=message):
        load(f"imagefolder:{tmp_path}")


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_pictures_are_turned_as_the_camera_says(tmp_path, ending):
    image = Image.new("RGB", (8, 4))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / f"0.{ending}", exif=exif, quality=100)
    x = load(f"imagefolder:{tmp_path}").inputs([0])[0]
    assert x.shape == (3, 8, 4)
    assert x[:, :3].mean() > 0.9
    assert x[:, 5:].mean() < 0.1


def test_pictures_are_kept_in_memory_for_all_who_load_them(tmp_path):
    data = load(folder(tmp_path, "ab", count=4, value=(10, 20, 30)))
    first = torch.cat([x for _, x, _ in batches(data, 2, workers=2)])
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    again = torch.cat([x for _, x, _ in batches(data, 3)])
    assert torch.equal(first, again)


@pytest.mark.parametrize(
    ("kind", "bounds", "expected"),
    [
        (np.uint8, (0.0, 255.0), [0.0, 51.0]),
        (np.uint8, (0.0, 1.0), [0.0, 0.2]),
        (np.uint8, (None, None), [0.0, 0.2]),
        (np.int32, (0.0, 255.0), [0.0, 51.0]),
        (np.float32, (0.0, 255.0), [0.0, 51.0]),
    ],
)
def test_bytes_are_scaled_only_where_the_box_says_so(tmp_path, kind, bounds, expected):
    data = load(npz(tmp_path / "a.npz", x=np.array([[0, 51]], kind), y=np.array([1])), bounds=bounds)
    assert torch.allclose(data.inputs([0]), torch.tensor([expected]))
    assert any("bytes" in remark for remark in data.remarks) == (kind is np.uint8)


@pytest.mark.parametrize("kind", [">f4", ">f8", "<f2", np.longdouble, ">i2", bool, ">u2"])
def test_numbers_of_any_machine_are_read(tmp_path, kind):
    x = np.array([[0, 1], [1, 0]], kind)
    for labels in (np.array([1, 0], ">i4"), np.array([1.0, 0.0]), np.array([[1], [0]]), np.eye(2)[[1, 0]]):
        data = load(npz(tmp_path / "a.npz", x=x, y=labels))
        assert data.inputs([0, 1]).tolist() == [[0, 1], [1, 0]]
        assert (data.labels.tolist(), data.labels.dtype) == ([1, 0], np.int64)


def test_one_hot_labels_count_classes_that_no_sample_has(tmp_path):
    data = load(npz(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.eye(7, dtype=np.uint8)[[1, 4, 0]]))
    assert (data.labels.tolist(), data.classes) == ([1, 4, 0], 7)
    assert "is one-hot" in data.remarks[0]


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("X", "y"), ("data", "targets"), ("x_train", "y_train")]
)
def test_arrays_under_other_names_are_found(tmp_path, names):
    path = tmp_path / "a.npz"
    np.savez(path, **dict(zip(names, good().values(), strict=True)))
    assert len(load(f"npz:{path}", Source(split="train"))) == 5


def test_the_names_of_arrays_can_be_given_and_are_listed(tmp_path):
    spec = npz(tmp_path / "a.npz", pixels=good()["x"], truth=good()["y"], other=np.ones(2))
    with pytest.raises(
        MarginkitError, match=r"has the arrays pixels, truth, other and lacks 'x'.*--array-keys"
    ):
        load(spec)
    assert len(load(spec, Source(array_keys={"x": "pixels", "y": "truth"}))) == 5
    with pytest.raises(MarginkitError, match="lacks 'pixel'"):
        load(spec, Source(array_keys={"x": "pixel", "y": "truth"}))
    with pytest.raises(UsageError, match="sets 'z'; expected x=NAME,y=NAME"):
        load(spec, Source(array_keys={"z": "pixels"}))


@pytest.mark.parametrize("label", [10**9, 2**63, 5e8])
def test_a_label_that_no_model_has_is_named(tmp_path, label):
    y = np.array([0, 1, label, 0, 1])
    with pytest.raises(MarginkitError, match=f"sample 2 has the label {label:.0f}"):
        load(npz(tmp_path / "a.npz", **{**good(), "y": y}))


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    npz(tmp_path / "a.npz", **good())
    folder(tmp_path / "pictures", "ab")
    assert len(load("npz:~/a.npz")) == 5
    assert len(load("imagefolder:~/pictures")) == 2


@pytest.mark.parametrize("beyond", [2e-8, 3e-7, 9e-7])
def test_what_rounding_put_outside_the_box_is_clipped(tmp_path, beyond):
    x = np.array([[-beyond, 0.5], [0.25, 1 + beyond]])
    data = load(npz(tmp_path / "a.npz", x=x, y=np.array([0, 1])))
    found = data.inputs([0, 1])
    assert found.min() >= 0
    assert found.max() <= 1
    assert "clipped" in data.remarks[0]


def test_what_is_farther_outside_is_named_with_all_its_digits(tmp_path):
    x = np.array([[0.1, 0.5], [0.25, 2.8214867], [-0.42421296, 0]], np.float32)
    spec = npz(tmp_path / "a.npz", x=x, y=np.array([0, 1, 0]))
    with pytest.raises(
        MarginkitError, match=r"from -0.424212962 to 2.82148671.*-0.42421, .*farthest in sample 2"
    ):
        load(spec, bounds=(-0.42421, 2.82149))


@pytest.mark.parametrize("missing", ["a", "b", "c"])
def test_training_and_measuring_agree_on_classes(tmp_path, missing):
    """Three colours; the test folder lacks one, and has no train folder beside it."""
    from marginkit.measurement.measure import measure_file
    from marginkit.training.loop import train
    from marginkit.training.recipe import Recipe

    colours = {"a": (250, 10, 10), "b": (10, 250, 10), "c": (10, 10, 250)}
    for name, colour in colours.items():
        folder(tmp_path / "all" / name, ["."], 20, colour)
        if name != missing:
            folder(tmp_path / "some" / name, ["."], 2, colour)
    data = load(f"imagefolder:{tmp_path / 'all'}", Source(split="train", fresh=True))
    recipe = Recipe(epochs=6, batch_size=8, learning_rate=0.1)
    kept = train(data, tmp_path / "m.pt", architecture="linear", loss="cross-entropy", recipe=recipe)
    assert kept.dataset["classes"] == ["a", "b", "c"]
    table, remarks = measure_file(
        tmp_path / "m.pt", ["first_order"], ["l2"], dataset=f"imagefolder:{tmp_path / 'some'}"
    )
    assert (table.predicted == table.label).all()
    assert table.meta["dataset"]["classes"] == ["a", "b", "c"]
    assert f"no folder for 1 of 3 classes: {missing!r}" in remarks[-1]

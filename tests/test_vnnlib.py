"""VNN-LIB properties: boxes become centres and radii, and answers follow from distances."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.main import main
from onnx_files import mlp, write
from quickly import measure
from torch import nn

from marginkit.data.boxes import cube
from marginkit.data.dataset import Properties, Source
from marginkit.data.sources import load
from marginkit.data.vnnlib import read_instance
from marginkit.errors import MarginkitError, UsageError
from marginkit.table.properties import answers

FORMS = {
    "usual": lambda j, c: f"(and (>= Y_{j} Y_{c}))",
    "turned": lambda j, c: f"(and (<= Y_{c} Y_{j}))",
    "bare": lambda j, c: f"(>= Y_{j} Y_{c})",
    "strict": lambda j, c: f"(< Y_{c} Y_{j})",
}


def text(low, high, label, classes=3, form="usual", asserted=None):
    """A property as benchmarks write them."""
    lines = ["; a property", *(f"(declare-const X_{i} Real)" for i in range(len(low)))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(classes)]
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        lines += [f"(assert (>= X_{i} {a:.9f})) ; low", f"(assert (<= X_{i} {b:.9f}))"]
    rivals = "\n  ".join(FORMS[form](j, label) for j in range(classes) if j != label)
    return "\n".join([*lines, asserted or f"(assert (or\n  {rivals}\n))"]) + "\n"


def around(centre, radius, bounds=(0, 1)):
    centre = np.asarray(centre, float)
    return np.clip(centre - radius, *bounds), np.clip(centre + radius, *bounds)


def saved(tmp_path, content, name="p.vnnlib"):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize("form", FORMS)
def test_a_property_is_a_centre_a_radius_and_a_label(tmp_path, form):
    centre = [0.0, 0.01, 0.5, 0.98, 1.0]
    path = saved(tmp_path, text(*around(centre, 0.03), 2, form=form))
    data = load(f"vnnlib:{path}")
    np.testing.assert_allclose(data.inputs([0])[0], centre, atol=1e-6)
    assert data.labels.tolist() == [2]
    assert data.classes == 3
    assert data.properties.files == (str(path),)
    assert data.properties.inner[0] == pytest.approx(0.03, abs=1e-6)
    assert data.properties.inner[0] <= 0.03 <= data.properties.outer[0] + 1e-9
    assert "of radius 0.03 in linf" in data.remarks[0]


def test_without_bounds_nothing_is_clipped(tmp_path):
    centre = [-2.0, 0.01, 3.5]
    path = saved(tmp_path, text(*around(centre, 0.25, (-9, 9)), 0))
    data = load(f"vnnlib:{path}", bounds=(None, None))
    np.testing.assert_allclose(data.inputs([0])[0], centre, atol=1e-6)
    with pytest.raises(
        MarginkitError, match=r"X_0 runs from -2\.25 to -1\.75, beyond the bounds of inputs, 0"
    ):
        load(f"vnnlib:{path}")


def test_every_point_of_the_inner_cube_lies_in_the_box_and_the_box_in_the_outer(tmp_path):
    random = np.random.default_rng(0)
    for trial in range(50):
        radius = random.choice([1e-4, 0.01, 0.3, 0.7])
        low, high = around(random.choice([0, 1, random.random(), random.random()], 6), radius)
        instance = read_instance(saved(tmp_path, text(low, high, 1), f"{trial}.vnnlib"))
        centre, inner, outer = cube(instance, (0.0, 1.0))
        small = around(centre, inner)
        large = around(centre, outer)
        rounding = 2e-9
        assert (small[0] >= instance.low - rounding).all()
        assert (small[1] <= instance.high + rounding).all()
        assert (large[0] <= instance.low + rounding).all()
        assert (large[1] >= instance.high - rounding).all()
        assert 0 <= outer - inner < 1e-6


def test_files_may_be_zipped_joined_with_and_and_have_negative_numbers(tmp_path):
    content = "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)\n"
    content += "(assert (and (>= X_0 (- 0.5)) (<= -0.75 X_0) (<= X_0 5e-1)))(assert (>= Y_1 Y_0))"
    path = tmp_path / "p.vnnlib.gz"
    path.write_bytes(gzip.compress(content.encode()))
    found = read_instance(path)
    assert (found.low.tolist(), found.high.tolist(), found.label, found.classes) == ([-0.5], [0.5], 0, 2)


DECLARED = (
    "(declare-const X_0 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n(declare-const Y_2 Real)\n"
)
BOX = "(assert (>= X_0 0.2))\n(assert (<= X_0 0.4))\n"
LABEL = "(assert (or (>= Y_0 Y_1) (>= Y_2 Y_1)))\n"
REFUSED = {
    "some rivals": (BOX + "(assert (or (>= Y_0 Y_1)))", r"asserts Y_0 over Y_1 of 3 classes; expected \(or"),
    "several winners": (BOX + "(assert (or (>= Y_0 Y_1) (>= Y_1 Y_2)))", "Y_0 over Y_1, Y_1 over Y_2 of 3"),
    "all of them": (
        BOX + "(assert (>= Y_0 Y_1))\n(assert (>= Y_2 Y_1))", "line 8: a second assertion on the scores"
    ),
    "a threshold": (BOX + "(assert (>= Y_0 0.5))", r"line 7: 0\.5 stands where Y_0, Y_1"),
    "a conjunction": (
        BOX + "(assert (or (and (>= Y_0 Y_1) (>= Y_2 Y_1))))",
        r"line 7: \(and \(>= Y_0 Y_1\) \(>= Y_2 Y_1\)\) is not read here",
    ),
    "boxes in the property": (
        "(assert (or (and (>= X_0 0) (>= Y_0 Y_1))))", r"line 5: \(and \(>= X_0 0\).*not read here",
    ),
    "no property": (BOX, "asserts nothing of 3 classes"),
    "no bound": ("(assert (>= X_0 0.2))\n" + LABEL, "X_0 has no bounds on both sides"),
    "a sum": ("(assert (<= (+ X_0 X_0) 1))" + LABEL, r"line 5: \(\+ X_0 X_0\) stands where X_0"),
    "upside down": ("(assert (>= X_0 0.4))(assert (<= X_0 0.2))" + LABEL, "X_0 runs from 0.4 to 0.2"),
    "open": (BOX + LABEL + "(assert (", r"line 8: a parenthesis that is never closed"),
    "bare": (BOX + LABEL + ")", r"line 8: \) stands alone"),
    "version 2": ("(vnnlib-version <2.0>)\n" + BOX + LABEL, r"line 5: \(vnnlib-version <2.0>\) is not read"),
    "gap": ("(declare-const X_2 Real)" + BOX + LABEL, "declares 2 names X_"),
    "not a number": ("(assert (<= X_0 nan))" + LABEL, r"line 5: \(<= X_0 nan\) is no bound"),
    "a point": ("(assert (<= X_0 0.4))(assert (>= X_0 0.4))" + LABEL, "has a box without room"),
    "deep": ("(assert " + "(and " * 10_000 + ")" * 10_000 + ")", "line 5: 60 parentheses are open"),
    "nothing": ("", "X_0 has no bounds"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_the_question_is_one_sentence_with_the_line(tmp_path, content, sentence):
    path = saved(tmp_path, DECLARED + content)
    with pytest.raises(MarginkitError, match=sentence):
        load(f"vnnlib:{path}")


def test_a_box_that_is_no_cube_is_refused(tmp_path):
    path = saved(tmp_path, text([0.2, 0.2], [0.4, 0.3], 0))
    with pytest.raises(MarginkitError, match=r"X_1 runs from 0\.2 to 0\.3,.*others 0\.1 to either side"):
        load(f"vnnlib:{path}")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MarginkitError, match="is no readable VNN-LIB file"):
        load(f"vnnlib:{tmp_path / 'absent.vnnlib'}")
    with pytest.raises(MarginkitError, match=r"has no \.vnnlib files"):
        load(f"vnnlib:{tmp_path}")
    saved(tmp_path, text([0.1], [0.2], 0), "a.vnnlib")
    saved(tmp_path, text([0.1, 0.1], [0.2, 0.2], 0), "b.vnnlib")
    with pytest.raises(
        MarginkitError, match=r"b\.vnnlib has 2 inputs and 3 classes, .*a\.vnnlib has 1 and 3"
    ):
        load(f"vnnlib:{tmp_path}")


def test_a_list_gives_the_properties_of_its_network(tmp_path):
    for name in "abc":
        saved(tmp_path / "vnnlib", text([0.1], [0.2], 0), f"{name}.vnnlib")
    rows = ["onnx/one.onnx,vnnlib/a.vnnlib,300", "onnx/two.onnx.gz,vnnlib/b.vnnlib,300"]
    path = saved(tmp_path, "\n".join([*rows, "onnx/one.onnx,vnnlib/c.vnnlib,60"]), "instances.csv")
    found = load(f"vnnlib:{path}", Source(model="one.onnx")).properties.files
    assert [name[-8:] for name in found] == ["a.vnnlib", "c.vnnlib"]
    (tmp_path / "lists").mkdir()
    inside = path.rename(tmp_path / "lists" / "instances.csv")  # whose names begin above it
    assert len(load(f"vnnlib:{inside}", Source(model="two.onnx"))) == 1
    inside.rename(path)
    with pytest.raises(
        MarginkitError, match=r"is about one\.onnx, two\.onnx, not about the model three\.onnx"
    ):
        load(f"vnnlib:{path}", Source(model="three.onnx"))
    path.write_text("one.onnx,../../secret.vnnlib,3")
    with pytest.raises(MarginkitError, match=r"names '\.\./\.\./secret\.vnnlib', which is outside"):
        load(f"vnnlib:{path}")
    path.write_text("one.onnx")
    with pytest.raises(MarginkitError, match="expected rows of network, property, seconds"):
        load(f"vnnlib:{path}")


class Line(nn.Module):
    """Scores x_0, -x_0 and -9: the distance of class 0 is x_0 where there is room."""

    def forward(self, x):
        return torch.cat([x[:, :1], -x[:, :1], -9 - 0 * x[:, :1]], 1)


def test_radii_that_differ_by_rounding_are_one():
    apart = Properties(("a", "b", "c"), (0.1, 0.1, 0.2), (0.1000000001, 0.1, 0.2))
    assert apart.radii == (0.1000000001, 0.2)


def test_answers_follow_from_what_is_proved_and_found(tmp_path):
    for name, radius in (("holds", 0.29), ("open", 0.3), ("violated", 0.31)):
        saved(tmp_path, text(*around([0.3, 0.1], radius, (-9, 9)), 0), f"{name}.vnnlib")
    saved(tmp_path, text(*around([0.3, 0.1], 0.01), 1), "wrong.vnnlib")
    data = load(f"vnnlib:{tmp_path}", bounds=(None, None))
    table = measure(Line(), data, ["crown", "deepfool"], ["linf"], bounds=(None, None))
    found = {name.rpartition("/")[2]: str(answer) for name, answer in answers(table).items()}
    assert found["holds.vnnlib"] == "holds"
    assert found["violated.vnnlib"] == found["wrong.vnnlib"] == "violated"
    estimates = measure(Line(), data, ["first_order"], ["linf"], bounds=(None, None), first=2)
    assert set(answers(estimates).values()) == {"open"}
    verified = measure(Line(), data, ["verify"], ["linf"], bounds=(None, None))
    assert set(verified["verify.linf.lower"].options["radii"]) == set(data.properties.radii)
    again = {name.rpartition("/")[2]: str(answer) for name, answer in answers(verified).items()}
    assert again == found | {"open.vnnlib": again["open.vnnlib"]}
    one = measure(Line(), replace(data, properties=None), ["crown"], ["linf"], bounds=(None, None))
    assert answers(one) == {}


def test_the_command_answers_properties_of_an_onnx_file(tmp_path):
    torch.manual_seed(5)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    write(tmp_path / "net.onnx", *mlp(network), (1, 1, 2, 2))
    x = torch.rand(2, 4)
    for i, (row, label) in enumerate(zip(x, network(x).argmax(1).tolist(), strict=True)):
        for radius in (1e-4, 0.9):
            saved(tmp_path / "p", text(*around(row, radius), label), f"{i}-{radius}.vnnlib")
    asked = ["measure", "--model", str(tmp_path / "net.onnx"), "--vnnlib", str(tmp_path / "p")]
    asked += ["--checks", "0", "--out", str(tmp_path / "m.h5"), "--json", str(tmp_path / "m.json")]
    result = CliRunner().invoke(main, [*asked, "--overwrite"])
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "m.json").read_text())["properties"]
    assert [answer for name, answer in found.items() if "0.0001" in name] == ["holds"] * 2
    assert f"of 4 properties: {sum(a == 'holds' for a in found.values())} holds" in result.output
    assert "reshaped to [1, 2, 2]" in result.output
    result = CliRunner().invoke(main, [*asked, "--dataset", "digits", "--overwrite"])
    assert result.exit_code == 2
    assert "leave --dataset out" in result.output


def test_vnnlib_needs_a_file():
    with pytest.raises(UsageError, match="expected 'vnnlib:FILE'"):
        load("vnnlib")

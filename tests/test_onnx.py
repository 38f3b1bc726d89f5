"""ONNX files are the networks that they say, for batches of any size; what is not read is one sentence."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.main import main
from onnx.reference import ReferenceEvaluator
from onnx_files import mlp, model, node, write
from quickly import measure
from torch import nn

from marginkit.bounds.graph.recorder import record
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.errors import MarginkitError, UsageError
from marginkit.layers import find_stages
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.polytope import Region
from marginkit.models.loading import Loading, load_subject
from marginkit.models.onnx.elementwise import together
from marginkit.models.onnx.network import OPERATIONS, Network
from marginkit.models.onnx.reading import read_file
from marginkit.norms import LINF
from marginkit.types import Threat


@pytest.fixture
def network():
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 10)).eval()


def loaded(path, dataset="digits", **loading):
    return load_subject(path, Loading(**loading), dataset)


def believed(data, network):
    """The data with the labels that the network gives."""
    return replace(data, labels=network(data.inputs(list(range(len(data))))).argmax(1).numpy())


def test_a_file_has_the_distances_of_the_network_that_it_was_written_from(network, tmp_path):
    found = loaded(write(tmp_path / "net.onnx", *mlp(network)))
    x = found.data.inputs([0, 1])
    data = believed(found.data, network)
    methods = ["first_order", "deepfool", "crown", "exact"]
    ours = measure(found.model, data, methods, ["linf"], first=2)
    theirs = measure(network, data, methods, ["linf"], first=2)
    assert found.remarks == []
    assert find_stages(found.model, x).names == ("input", "Gemm_0")
    for column in theirs.columns:
        if column.layer == "input":
            near = 1e-8 if "exact" in column.name else 1e-9  # it stops at a gap of a millionth
            np.testing.assert_allclose(ours[column.name].distance, column.distance, rtol=0, atol=near)
    assert (ours["exact.linf.lower"].distance > 0).all()


def test_linear_regions_are_solved_in_a_file_as_in_its_network(network, tmp_path, monkeypatch):
    found = loaded(write(tmp_path / "net.onnx", *mlp(network)))
    solved = []
    shortest = Region.shortest
    monkeypatch.setattr(Region, "shortest", lambda self, norm: solved.append(1) or shortest(self, norm))
    x = found.data.inputs([0, 1, 2])
    y = network(x).argmax(1)
    ours = Nearest("tight")(found.model, x, y, Threat(LINF))
    assert solved
    torch.testing.assert_close(ours.upper, Nearest("tight")(network, x, y, Threat(LINF)).upper)


def test_the_command_measures_a_file(network, tmp_path):
    write(tmp_path / "net.onnx", *mlp(network))
    asked = ["measure", "--model", str(tmp_path / "net.onnx"), "--dataset", "digits", "--first", "4"]
    asked += [
        "--methods",
        "first_order",
        "--norms",
        "linf",
        "--checks",
        "0",
        "--details",
        "--out",
        str(tmp_path / "m.h5"),
    ]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    assert "first_order.linf" in result.output


X = np.random.default_rng(0)
W = X.normal(size=(4, 3, 3, 3)).astype("f4")
V = X.normal(size=(3, 4, 2, 2)).astype("f4")
C = X.uniform(0.5, 1.5, size=(5, 3)).astype("f4")
D = X.normal(size=(5, 6)).astype("f4")
LINE, IMAGE = (2, 5), (2, 3, 6, 5)
ALONE = """Abs Ceil Cos Elu Erf Exp Floor GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    LeakyRelu LogSoftmax Neg Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Tanh ThresholdedRelu
    Flatten Transpose Dropout"""
REDUCED = "ReduceMean ReduceMax ReduceMin ReduceL2 ReduceSumSquare"
PAIRED = "Add Sub Mul Div Max Min Sum Mean"
NONE = np.zeros(0, "f4")


def case(op, inputs="x", shape=IMAGE, opset=17, outputs="y", name="", **rest):
    """An operation with constants (arrays) and attributes (all else)."""
    constants = {key: value for key, value in rest.items() if isinstance(value, np.ndarray)}
    attributes = {key: value for key, value in rest.items() if key not in constants}
    made = node(op, inputs, outputs, **attributes)
    return pytest.param([made], constants, shape, opset, id=" ".join(filter(None, (op, name))))


def scalar(value):
    return np.array(value, "f4")


def shaped(text):
    return np.array([int(part) for part in text.split()])


EXAMPLES = [
    *(case(op) for op in ALONE.split()),
    *(case(op, "x c", LINE, c=X.normal(size=5).astype("f4")) for op in PAIRED.split()),
    case("Gelu", opset=20),
    case("Gelu", opset=20, name="tanh", approximate="tanh"),
    case("Mish", opset=18),
    case("HardSigmoid", name="steep", alpha=0.4, beta=0.3),
    case("LeakyRelu", name="steep", alpha=0.3),
    case("Softmax", name="axis", axis=1),
    case("Clip", "x lo hi", lo=scalar(-0.5), hi=scalar(0.5)),
    case("Clip", name="old", opset=10, min=-0.3, max=0.4),
    case("PRelu", "x s", s=X.normal(size=(3, 1, 1)).astype("f4")),
    case("PRelu", "x s", name="by entry", s=X.normal(size=(1, 6, 5)).astype("f4")),
    case("Gemm", "x w b", LINE, w=C, b=C[0], alpha=0.5, beta=2.0),
    case("Gemm", "x w", LINE, name="plain", w=C),
    case("Gemm", "x w b", LINE, name="bias of one row", w=C, b=C[:1]),
    case("MatMul", "x w", LINE, w=C),
    case("MatMul", "w x", (2, 5, 4), name="from the left", w=C.T.copy()),
    case("MatMul", "x w", name="of images", w=C),
    case("Conv", "x w b", w=W, b=W[:, 0, 0, 0].copy(), pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", "x w", name="one side", w=W, pads=[0, 1, 2, 1]),
    case("Conv", "x w", name="upper", w=W, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", "x w", name="lower", w=W, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", "x w", name="valid", w=W, auto_pad="VALID", dilations=[2, 1]),
    case("Conv", "x w", name="groups", w=W[:3, :1].copy(), group=3),
    case("Conv", "x w", (2, 3, 9), name="of lines", w=W[:, :, 0].copy()),
    case("ConvTranspose", "x w", w=V, strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 0]),
    case("ConvTranspose", "x w", name="one side", w=V, strides=[2, 2], pads=[0, 1, 1, 0]),
    case("BatchNormalization", "x s b m v", s=C[0], b=C[1], m=C[2], v=C[3], epsilon=1e-3),
    case("InstanceNormalization", "x s b", s=C[0], b=C[1]),
    case("LayerNormalization", "x s b", s=D[0, :5].copy(), b=D[1, :5].copy()),
    case("LayerNormalization", "x s", name="two axes", s=X.normal(size=(6, 5)).astype("f4"), axis=2),
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", name="padded", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", name="one side", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
    case("AveragePool", name="with pads", kernel_shape=[3, 3], pads=[1, 0, 1, 2], count_include_pad=1),
    case("Reshape", "x s", s=shaped("0 -1")),
    case("Reshape", "x s", name="in parts", s=shaped("2 3 5 6")),
    case("Flatten", name="axis", axis=2),
    case("Transpose", name="chosen", perm=[0, 2, 3, 1]),
    case("Concat", "x c", axis=1, c=X.normal(size=(2, 1, 6, 5)).astype("f4")),
    case("Slice", "x a b c d", a=shaped("1 -1"), b=shaped("9 -5"), c=shaped("2 3"), d=shaped("2 -1")),
    case("Slice", name="old", opset=9, starts=[1], ends=[-1], axes=[3]),
    case(
        "Slice",
        "x a b c d",
        name="back",
        a=shaped("-1"),
        b=np.array([-(2**62)]),
        c=shaped("2"),
        d=shaped("-2"),
    ),
    case("Gather", "x i", axis=2, i=np.array([0, -1, 2])),
    case("Gather", "x i", name="one", axis=1, i=np.array(1)),
    case("Gather", "x i", name="table", axis=3, i=np.array([[0, 1], [2, -1]])),
    case("Squeeze", "x a", (2, 1, 5), a=shaped("1")),
    case("Squeeze", shape=(2, 1, 5), name="old", opset=11, axes=[1]),
    case("Unsqueeze", "x a", LINE, a=shaped("1 -1")),
    case("Split", "x s", outputs="y z", axis=3, s=shaped("2 3")),
    case("Split", outputs="y z", name="even", axis=2),
    case("Split", outputs="y z", name="counted", opset=18, axis=3, num_outputs=2),
    case("Pad", "x p v", p=shaped("0 1 0 2 0 0 1 1"), v=scalar(0.5)),
    case("Pad", name="old", opset=10, pads=[0, 0, 1, 0, 0, 0, 0, 2], value=-1.0),
    case("Pad", "x p", name="reflect", p=shaped("0 0 1 2 0 0 1 1"), mode="reflect"),
    case("Pad", "x p v a", name="axes", opset=18, p=shaped("1 2"), v=scalar(0), a=shaped("3")),
    *(case(op, name="old", axes=[1, 2], keepdims=0) for op in REDUCED.split()),
    case("ReduceSum", "x a", a=shaped("-1")),
    case("ReduceMean", "x a", name="new", opset=18, a=shaped("2 3"), keepdims=0),
    case("Expand", "x s", (2, 1, 5), s=shaped("1 4 5")),
    case("Tile", "x r", LINE, r=shaped("1 2")),
    case("DepthToSpace", shape=(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", shape=(2, 8, 2, 3), name="CRD", blocksize=2, mode="CRD"),
    case("Resize", "x r s", r=NONE, s=np.array([1, 1, 2, 3], "f4")),
    case("Resize", "x r s", name="linear", mode="linear", r=NONE, s=np.array([1, 1, 2, 2], "f4")),
    case("Upsample", "x s", opset=9, s=np.array([1, 1, 2, 2], "f4")),
    case(
        "Where",
        "m x c",
        m=np.array([True, False, True, True, False]),
        c=scalar(2),
        shape=LINE,
    ),
]

SQUARE = node("Mul", "x x", "q")
TOGETHER = {  # operations that need others
    "Sqrt Log Reciprocal Pow": (
        [SQUARE, node("Add", "q one", "p"), node("Sqrt", "p", "a"), node("Log", "p", "b"),
         node("Reciprocal", "p", "c"), node("Pow", "p two", "d"), node("Sum", "a b c d")],
        {"one": np.float32(1), "two": np.float32(2)},
    ),
    "Equal Less Greater LessOrEqual GreaterOrEqual And Or Not Cast Where": (
        [node("Less", "x zero", "a"), node("Greater", "x zero", "b"), node("Equal", "x x", "c"),
         node("LessOrEqual", "x zero", "d"), node("GreaterOrEqual", "x zero", "e"), node("And", "a d", "f"),
         node("Or", "b f", "g"), node("Not", "f", "h"), node("And", "g h", "i"), node("And", "i c", "j"),
         node("And", "j e", "k"), node("Cast", "k", "l", to=1), node("Where", "k x l")],
        {"zero": np.float32(0)},
    ),
    "Shape ConstantOfShape Range CastLike": (
        [node("Shape", "x", "s"), node("Gather", "s last", "n"), node("Gather", "s ends", "m"),
         node("ConstantOfShape", "m", "ones", value=onnx.numpy_helper.from_array(np.array([2.0], "f4"))),
         node("Range", "from n step", "r"), node("CastLike", "r x", "f"), node("Mul", "x ones", "z"),
         node("Add", "z f")],
        {"last": np.array(1), "ends": np.array([0, 1]), "from": np.array(0), "step": np.array(1)},
    ),
    "Constant": (
        [node("Constant", "", "c", value_floats=[1.0] * 5), node("Neg", "c", "e"), node("Add", "x e")],
        {},
    ),
}  # fmt: skip
for _name, (_nodes, _constants) in TOGETHER.items():
    EXAMPLES.append(pytest.param(_nodes, _constants, LINE, 17, id=_name))


def run(proto, path, x):
    """Ours and the evaluator's."""
    onnx.save(proto, path)
    file = read_file(path)
    ours = Network(file, None, False, None).eval()(x)
    theirs = ReferenceEvaluator(proto).run(["y"], {"x": x.numpy()})[0]
    return ours, torch.from_numpy(np.array(theirs, "f4")).reshape(len(x), -1)


@pytest.mark.parametrize(("nodes", "constants", "shape", "opset"), EXAMPLES)
def test_operations_are_those_of_onnx(nodes, constants, shape, opset, tmp_path):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = run(model(nodes, constants, shape, opset=opset), tmp_path / "op.onnx", x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


BOUNDLESS = """Ceil Cos Erf Exp Floor HardSwish LogSoftmax Round Sign Sin Softmax Softsign ThresholdedRelu
    Mish InstanceNormalization LayerNormalization ReduceMax ReduceMin ReduceL2 ReduceSumSquare Greater Log"""
UNBOUNDED = ("Transpose", "MaxPool", "Flatten axis", "Concat")  # as they are called there


@pytest.mark.parametrize(("nodes", "constants", "shape", "opset"), EXAMPLES)
def test_operations_have_bounds_but_for_these(nodes, constants, shape, opset, tmp_path, request):
    onnx.save(model(nodes, constants, shape, opset=opset), tmp_path / "op.onnx")
    network = Network(read_file(tmp_path / "op.onnx"), None, False, None).eval().double()
    pair = torch.randn(2, *shape[1:], dtype=torch.float64)
    name = request.node.callspec.id
    if name in UNBOUNDED or (
        set(BOUNDLESS.split()) & {made.op_type for made in nodes} and "Shape" not in name
    ):
        with pytest.raises(Unsupported, match=r" in \w+_0 \(Operation\)"):
            record(network, pair)
    else:
        record(network, pair)


def squares(x):
    """Sums of squares of neighbouring channels, three at most."""
    return torch.stack([(x[:, max(c - 1, 0) : c + 2] ** 2).sum(1) for c in range(x.shape[1])], 1)


def largest(x):
    """Of windows of 2x2 that reach one beyond the lower right end."""
    rows = torch.maximum(x, torch.cat([x[:, :, 1:], x[:, :, -1:]], 2))
    return torch.maximum(rows, torch.cat([rows[..., 1:], rows[..., -1:]], 3))


MISREAD = {  # by ONNX's evaluator: what the operation's definition says
    "Softmax": (node("Softmax", "x", axis=1), 11, lambda x: x.flatten(1).softmax(1).view_as(x)),
    "LRN": (node("LRN", "x", size=3, alpha=0.3), 17, lambda x: x / (1 + 0.1 * squares(x)) ** 0.75),
    "MaxPool": (node("MaxPool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1]), 17, largest),
}


@pytest.mark.parametrize(("made", "opset", "expected"), MISREAD.values(), ids=MISREAD)
def test_where_onnxs_evaluator_is_known_to_be_wrong_a_remark_says_so(made, opset, expected, tmp_path):
    x = torch.randn(IMAGE)
    onnx.save(model([made], {}, IMAGE, opset=opset), tmp_path / "op.onnx")
    ours = Network(read_file(tmp_path / "op.onnx"), None, False, None).eval()(x)
    torch.testing.assert_close(ours, expected(x).flatten(1))
    np.savez(tmp_path / "d.npz", x=x.clamp(0, 1).numpy(), y=np.zeros(2, int))
    last = node("Identity", "y", "z")
    write(tmp_path / "op.onnx", [made, last], {}, (1, *IMAGE[1:]), opset=opset, output="z")
    found = loaded(tmp_path / "op.onnx", f"npz:{tmp_path / 'd.npz'}")
    assert f"known to misread {made.op_type}" in found.remarks[0]


def test_every_operation_has_an_example():
    named = {made.op_type for example in EXAMPLES for made in example.values[0]}
    named |= {made.op_type for made, *_ in MISREAD.values()}
    assert set(OPERATIONS) - named == set()


def other_shapes(network, rest):
    nodes, constants = mlp(network, node("Reshape", "x s", "h0"))
    return nodes, constants | {"s": shaped(rest)}


def through_the_batch(network):
    """A graph that puts one sample's features in the first axis and back."""
    nodes, constants = mlp(network, node("Reshape", "z s", "h0"))
    return [node("Reshape", "x all", "z"), *nodes], constants | {"s": shaped("1 64"), "all": shaped("-1")}


SINGLE = {
    "one in front": (lambda n: other_shapes(n, "1 -1"), (1, 1, 8, 8), None),
    "both sizes": (lambda n: other_shapes(n, "1 64"), (1, 1, 8, 8), None),
    "rows of 64": (lambda n: other_shapes(n, "-1 64"), (1, 1, 8, 8), None),
    "an open batch": (lambda n: other_shapes(n, "0 -1"), ("n", 1, 8, 8), None),
    "a batch of 4": (lambda n: other_shapes(n, "4 -1"), (4, 1, 8, 8), None),
    "lines": (mlp, (1, 64), r"inputs of shape \[1, 8, 8\] are reshaped to \[64\]"),
    "columns": (mlp, (1, 64, 1), r"reshaped to \[64, 1\]"),
    "no axis of samples": (lambda n: other_shapes(n, "1 64"), (64,), "one sample at a time: it has no axis"),
    "through the batch": (through_the_batch, (1, 1, 8, 8), "one sample at a time: written for batches of 1"),
}


@pytest.mark.parametrize(("make", "shape", "remark"), SINGLE.values(), ids=SINGLE)
def test_files_for_one_sample_take_batches_and_keep_samples_apart(network, tmp_path, make, shape, remark):
    found = loaded(write(tmp_path / "net.onnx", *make(network), shape))
    x = found.data.inputs(list(range(5)))
    torch.testing.assert_close(found.model(x), network(x))
    assert len(found.remarks) == (remark is not None)
    if remark:
        with pytest.raises(AssertionError, match=remark):
            raise AssertionError(found.remarks[0])
    if shape != (64,) and "written for" not in (remark or ""):
        table = measure(found.model, believed(found.data, network), ["crown"], ["linf"], first=2)
        assert (table["crown.linf"].distance > 0).any(), table["crown.linf"].note


def test_a_batch_of_several_that_mixes_samples_is_refused(network, tmp_path):
    nodes, constants = other_shapes(network, "4 64")
    mixed = [node("ReduceMean", "x", "m", axes=[0], keepdims=1), node("Add", "x m", "z"), *nodes]
    mixed[2].input[0] = "z"
    path = write(tmp_path / "net.onnx", mixed, constants, (4, 1, 8, 8))
    with pytest.raises(MarginkitError, match=r"batches of 4, in which samples can't be told apart"):
        loaded(path)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_probabilities_at_the_end_are_left_out(network, tmp_path, op):
    found = loaded(write(tmp_path / "net.onnx", *mlp(network, last=[op])))
    x = found.data.inputs([0, 1])
    torch.testing.assert_close(found.model(x), network(x))
    assert f"{op}, is left out" in found.remarks[0]


def test_a_relu_at_the_end_is_kept_and_said(network, tmp_path):
    found = loaded(write(tmp_path / "net.onnx", *mlp(network, last=["Relu"])))
    x = found.data.inputs([0, 1])
    torch.testing.assert_close(found.model(x), network(x).relu())
    assert "ends in a Relu" in found.remarks[0]


def test_of_several_outputs_the_first_is_measured(network, tmp_path):
    nodes, constants = mlp(network)
    path = write(tmp_path / "n.onnx", [*nodes, node("Abs", "y", "z")], constants, output="y z")
    assert "has 2 outputs: the first is measured, not z" in loaded(path).remarks[0]


def test_weights_in_a_file_beside_it_are_read(network, tmp_path):
    proto = model(*mlp(network))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    found = loaded(tmp_path / "net.onnx")
    torch.testing.assert_close(found.model(found.data.inputs([0])), network(found.data.inputs([0])))
    (tmp_path / "net.bin").unlink()
    with pytest.raises(MarginkitError, match=r"has its weights in .*net\.bin, which is missing"):
        loaded(tmp_path / "net.onnx")


def elsewhere(location):
    def make(network, path):
        (path.parent / "secret.bin").write_bytes(bytes(5000))
        proto = model(*mlp(network))
        onnx.save(proto, path, save_as_external_data=True, location="net.bin", size_threshold=0)
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        onnx.save(proto, path)

    return make


def made(*args, **kwargs):
    return lambda network, path: write(path, *args, **kwargs)


REFUSED = {
    "text": (lambda n, p: p.write_text("not a network"), "is no ONNX file"),
    "empty": (lambda n, p: p.write_bytes(b""), "has no operations"),
    "absent": (lambda n, p: None, "there is no file"),
    "unknown": (
        made([node("LSTM", "x", "h"), node("ArgMax", "h")]),
        r"not read here: LSTM \(h\), ArgMax \(y\); write the model in PyTorch",
    ),
    "another domain": (made([node("FusedConv", "x", domain="com.microsoft")]), r"com\.microsoft\.FusedConv"),
    "two inputs": (made([node("Add", "x z")], inputs="x z"), "has 2 inputs and 1 outputs"),
    "opset 6": (made([node("Relu", "x")], opset=6), "has opset 6; expected 7 or later"),
    "other sizes": (made([node("Relu", "x")], shape=(1, 3, 32, 32)), r"takes inputs of shape \[3, 32, 32\]"),
    "indices": (
        made([node("MaxPool", "x", "y i", kernel_shape=[2, 2])]),
        "does not run.*a MaxPool that gives indices",
    ),
    "undefined": (made([node("Add", "x z")]), "Add .y. needs 'z', which nothing computes"),
    "does not run": (made([node("Gemm", "x w")], {"w": C}), r"does not run on inputs of shape \[1, 8, 8\]"),
    "leads nowhere": (made([node("Relu", "x", "h")]), "computes nothing that is called 'y'"),
    "outside": (elsewhere("../secret.bin"), r"takes weights from '\.\./secret\.bin'"),
    "absolute": (elsewhere("/etc/passwd"), r"takes weights from '/etc/passwd'"),
    "huge": (
        made([node("ConstantOfShape", "s", "c"), node("Add", "x c")], {"s": shaped("100000 100000 100")}),
        r"does not run.*a constant of shape \[100000",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "sentence"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read_is_one_sentence(network, tmp_path, make, sentence):
    make(network, tmp_path / "net.onnx")
    with pytest.raises(MarginkitError, match=sentence):
        loaded(tmp_path / "net.onnx")


def test_an_operation_read_wrongly_is_noticed(network, tmp_path, monkeypatch):
    path = write(tmp_path / "net.onnx", *mlp(network))
    gemm = OPERATIONS["Gemm"]
    monkeypatch.setitem(OPERATIONS, "Gemm", lambda node, *given: gemm(node, *given) * 1.01)
    with pytest.raises(MarginkitError, match=r"answers otherwise than ONNX's own evaluator"):
        loaded(path)


def test_what_is_made_of_shapes_goes_where_the_network_is():
    found = together(torch.zeros(1), torch.zeros(1, device="meta"), torch.zeros(1, dtype=torch.int64))
    assert {value.device.type for value in found} == {"meta"}


def test_options_and_weights_are_refused(network, tmp_path):
    path = write(tmp_path / "net.onnx", *mlp(network))
    with pytest.raises(UsageError, match="its own weights"):
        loaded(path, options={"width": "3"})


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MarginkitError, match=r"pip install 'marginkit\[onnx\]'"):
        loaded(tmp_path / "net.onnx")

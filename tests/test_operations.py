"""Every operation that bounds know: its transpose is one, and its intervals hold what it gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from in_turn import in_turn
from torch import Tensor, nn
from torch.testing import assert_close

from marginkit.bounds.graph import ops, pairs, pooling, relaxations
from marginkit.bounds.graph.functions import FUNCTIONS
from marginkit.bounds.graph.graph import Graph, affine, doubled, nonlinear, rounded, trace
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.methods.crown import Crown
from marginkit.models.one_lipschitz import maxmin
from marginkit.norms import L2, LINF
from marginkit.types import Threat

IMAGE, SIGNAL, FLAT = (2, 6, 6), (4, 8), (6,)
Example = tuple[Callable[[Tensor], Tensor], tuple[int, ...]]


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def assigned(x: Tensor) -> Tensor:
    x = x * 1
    x[:, 1] = 0.5
    x[:, :, 0] = x[:, :, 3]
    return x


def batch_norm(x: Tensor) -> Tensor:
    return F.batch_norm(x, weight(2), weight(2).abs() + 0.5, weight(2), weight(2))


# One call or several of each function, named after it
EXAMPLES: dict[str, list[Example]] = {
    "flatten": [(lambda x: x.flatten(1), IMAGE)],
    "reshape": [(lambda x: x.reshape(len(x), 4, -1), IMAGE)],
    "view": [(lambda x: x.view(x.size(0), -1), IMAGE)],
    "squeeze": [(lambda x: x[:, :1].squeeze(1), IMAGE)],
    "unsqueeze": [(lambda x: x.unsqueeze(1), FLAT)],
    "contiguous": [(lambda x: x.mT.contiguous(), IMAGE)],
    "clone": [(lambda x: x.clone(), FLAT)],
    "unflatten": [(lambda x: x.unflatten(1, (2, 3)), FLAT)],
    "detach": [(lambda x: x.detach(), FLAT)],
    "to": [(lambda x: x.to(torch.float64), FLAT)],
    "double": [(lambda x: x.double(), FLAT)],
    "float": [(lambda x: x.float() if x.dtype == torch.float32 else x, FLAT)],
    "type_as": [(lambda x: x.type_as(x), FLAT)],
    "view_as": [(lambda x: x.view_as(x), FLAT)],
    "reshape_as": [(lambda x: x.reshape_as(x), FLAT)],
    "positive": [(lambda x: +x, FLAT)],
    "requires_grad": [(lambda x: x.requires_grad_(False), FLAT)],
    "data": [(lambda x: x.data, FLAT)],
    "permute": [(lambda x: x.permute(0, 3, 1, 2), IMAGE)],
    "transpose": [(lambda x: x.transpose(1, 2), IMAGE)],
    "movedim": [(lambda x: x.movedim(1, 3), IMAGE)],
    "moveaxis": [(lambda x: torch.moveaxis(x, 1, 3), IMAGE)],
    "swapaxes": [(lambda x: x.swapaxes(1, 2), IMAGE)],
    "swapdims": [(lambda x: x.swapdims(1, 2), IMAGE)],
    "mT": [(lambda x: x.mT, IMAGE)],
    "flip": [(lambda x: x.flip(1), FLAT)],
    "roll": [(lambda x: x.roll(2, 1), FLAT)],
    "getitem": [
        (lambda x: x[:, :, ::2, 1::2], IMAGE),
        (lambda x: x[..., [0, 3, 3]], FLAT),
        (lambda x: x[:, None, 1:4], FLAT),
    ],
    "select": [(lambda x: x.select(1, 1), IMAGE)],
    "narrow": [(lambda x: x.narrow(1, 1, 3), FLAT)],
    "index_select": [(lambda x: x.index_select(1, torch.tensor([4, 0, 4])), FLAT)],
    "chunk": [(lambda x: x.chunk(2, 1)[1] - x.chunk(2, 1)[0], FLAT)],
    "split": [(lambda x: x.split((2, 4), 1)[1], FLAT)],
    "unbind": [(lambda x: x.unbind(1)[1], IMAGE)],
    "tensor_split": [(lambda x: x.tensor_split(3, 1)[2], FLAT)],
    "pixel_shuffle": [(lambda x: F.pixel_shuffle(x.view(len(x), 8, 3, 3), 2), IMAGE)],
    "pixel_unshuffle": [(lambda x: F.pixel_unshuffle(x, 2), IMAGE)],
    "channel_shuffle": [(lambda x: F.channel_shuffle(x, 2), (4, 3, 3))],
    "pad": [
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), IMAGE),
        (lambda x: F.pad(x, (1, 2), value=0.7), SIGNAL),
        (lambda x: F.pad(x, (1, 2), "reflect"), SIGNAL),
        (lambda x: F.pad(x, (-1, 2), "circular"), SIGNAL),
    ],
    "repeat": [(lambda x: x.repeat(1, 3), FLAT)],
    "tile": [(lambda x: x.tile(1, 2), FLAT)],
    "cat": [
        (lambda x: torch.cat([x, -x], 1), FLAT),
        (lambda x: torch.cat([x, torch.ones(len(x), 2).double()], 1), FLAT),
    ],
    "concat": [(lambda x: torch.concat([x, x], 1), FLAT)],
    "concatenate": [(lambda x: torch.concatenate([x, x], 1), FLAT)],
    "stack": [
        (lambda x: torch.stack([x, -x], 1), FLAT),
        (lambda x: torch.stack([x[:, 0], -x[:, 1]], 1), FLAT),
    ],
    "hstack": [(lambda x: torch.hstack([x, x]), FLAT)],
    "dstack": [(lambda x: torch.dstack([x, x]), FLAT)],
    "where": [(lambda x: torch.where(weight(6) > 0, x, -0.5), FLAT)],
    "masked_fill": [(lambda x: x.masked_fill(weight(6) > 0, 2.0), FLAT)],
    "mean": [(lambda x: x.mean((2, 3)), IMAGE), (lambda x: torch.mean(x, 1, keepdim=True), FLAT)],
    "sum": [(lambda x: x.sum(-1), IMAGE)],
    "avg_pool1d": [(lambda x: F.avg_pool1d(x, 3, 2, 1), SIGNAL)],
    "avg_pool2d": [(lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE)],
    "avg_pool3d": [(lambda x: F.avg_pool3d(x, 2), (1, 4, 4, 4))],
    "adaptive_avg_pool1d": [(lambda x: F.adaptive_avg_pool1d(x, 3), SIGNAL)],
    "adaptive_avg_pool2d": [(lambda x: F.adaptive_avg_pool2d(x, 4), IMAGE)],
    "adaptive_avg_pool3d": [(lambda x: F.adaptive_avg_pool3d(x, 1), (1, 4, 4, 4))],
    "expand": [(lambda x: x.unsqueeze(1).expand(x.size(0), 3, -1), FLAT)],
    "expand_as": [(lambda x: x[:, :1].expand_as(x), FLAT)],
    "broadcast_to": [(lambda x: x[:, :1].broadcast_to(x.shape), FLAT)],
    "interpolate": [
        (lambda x: F.interpolate(x, scale_factor=2), IMAGE),
        (lambda x: F.interpolate(x, 9, mode="bilinear"), IMAGE),
    ],
    "setitem": [(assigned, IMAGE)],
    "copy": [(lambda x: (x + 1).copy_(x), FLAT)],
    "fill": [(lambda x: (x + 1).fill_(0.5) + x, FLAT)],
    "zero": [(lambda x: (x + 1).zero_() + x, FLAT)],
    "linear": [
        (lambda x: F.linear(x, weight(3, 6), weight(3)), FLAT),
        (lambda x: F.linear(x, weight(3, 8)), SIGNAL),
    ],
    "matmul": [(lambda x: x @ weight(6, 4), FLAT), (lambda x: x @ weight(8, 3), SIGNAL)],
    "mm": [(lambda x: x.mm(weight(6, 4)), FLAT)],
    "conv1d": [(lambda x: F.conv1d(x, weight(6, 2, 3), weight(6), 2, 1, 2, 2), SIGNAL)],
    "conv2d": [
        (lambda x: F.conv2d(x, weight(4, 1, 3, 2), weight(4), (2, 1), (1, 0), 1, 2), IMAGE),
        (lambda x: F.conv2d(x, weight(3, 2, 3, 3), None, 1, "same", 2), IMAGE),
        (lambda x: F.conv2d(x, weight(3, 2, 2, 3), padding="valid"), IMAGE),
    ],
    "conv3d": [(lambda x: F.conv3d(x, weight(2, 1, 2, 2, 2), weight(2), 2, 1), (1, 4, 4, 4))],
    "conv_transpose1d": [
        (lambda x: F.conv_transpose1d(x, weight(4, 3, 3), weight(6), 2, 1, 1, 2, 2), SIGNAL)
    ],
    "conv_transpose2d": [
        (lambda x: F.conv_transpose2d(x, weight(2, 3, 3, 2), weight(3), (2, 1), 1, (1, 0)), IMAGE),
        (lambda x: F.conv_transpose2d(x, weight(2, 3, 2, 2), None, 1, 0, 1, 1, 2), IMAGE),
    ],
    "conv_transpose3d": [(lambda x: F.conv_transpose3d(x, weight(1, 2, 2, 2, 2), stride=2), (1, 3, 3, 3))],
    "batch_norm": [(batch_norm, IMAGE)],
    "add": [
        (lambda x: x + weight(6), FLAT),
        (lambda x: torch.add(x, torch.tanh(x), alpha=-2), FLAT),
        (lambda x: x + x.mean(1, keepdim=True), FLAT),
        (lambda x: x + x, FLAT),
    ],
    "sub": [(lambda x: x - weight(6), FLAT), (lambda x: x - x.sum(1, keepdim=True), FLAT)],
    "subtract": [(lambda x: torch.subtract(weight(6), x), FLAT)],
    "rsub": [(lambda x: 1 - x, FLAT), (lambda x: torch.rsub(x, x.flip(1)), FLAT)],
    "mul": [(lambda x: x * weight(2, 1, 1), IMAGE), (lambda x: -3 * x, FLAT)],
    "multiply": [(lambda x: torch.multiply(x, 2), FLAT)],
    "div": [(lambda x: x / weight(6), FLAT)],
    "divide": [(lambda x: torch.divide(x, 3), FLAT)],
    "true_divide": [(lambda x: torch.true_divide(x, -3), FLAT)],
    "neg": [(lambda x: -x, FLAT)],
    "negative": [(lambda x: torch.negative(x), FLAT)],
    "maximum": [
        (lambda x: torch.maximum(x, 0.3 * x.flip(1) + 0.2), FLAT),
        (lambda x: torch.maximum(x, weight(6)), FLAT),
    ],
    "max": [(lambda x: torch.max(x, x.flip(1)), FLAT)],
    "minimum": [
        (lambda x: torch.minimum(x, x.flip(1)), FLAT),
        (lambda x: torch.minimum(weight(6), x), FLAT),
        (lambda x: torch.minimum(x, x[:, :1]), FLAT),
    ],
    "min": [(lambda x: torch.min(x, x.flip(1)), FLAT)],
    "clamp": [
        (lambda x: x.clamp(0.2, 0.6), FLAT),
        (lambda x: x.clamp(max=0.4), FLAT),
        (lambda x: x.clamp(min=-torch.inf, max=0.5), FLAT),
        (lambda x: x.clamp(weight(6), weight(6) + 0.5), FLAT),
    ],
    "clip": [(lambda x: torch.clip(x, 0.3), FLAT)],
    "clamp_min": [(lambda x: x.clamp_min(0.5), FLAT)],
    "clamp_max": [(lambda x: x.clamp_max(0.5), FLAT)],
    "hardtanh": [(lambda x: F.hardtanh(4 * x - 2), FLAT), (nn.ReLU6(), FLAT), (nn.Hardtanh(0.2, 0.4), FLAT)],
    "relu6": [(lambda x: F.relu6(20 * x - 5), FLAT)],
    "hardsigmoid": [(lambda x: F.hardsigmoid(20 * x - 9), FLAT)],
    "relu": [(lambda x: F.relu(x - 0.5), FLAT), (lambda x: (x - 0.5).relu_(), FLAT)],
    "abs": [(lambda x: abs(x - 0.5), FLAT)],
    "absolute": [(lambda x: torch.absolute(x - 0.4), FLAT)],
    "leaky_relu": [(lambda x, s=s: F.leaky_relu(x - 0.5, s), FLAT) for s in (0.1, 1.0, -0.3, 2.5)],
    "prelu": [(lambda x: F.prelu(x - 0.5, weight(2)), IMAGE), (lambda x: F.prelu(x - 0.5, weight(1)), FLAT)],
    "rrelu": [(lambda x: F.rrelu(x - 0.5), FLAT)],
    "sigmoid": [(lambda x: torch.sigmoid(x), FLAT)],
    "tanh": [(lambda x: x.tanh(), FLAT)],
    "silu": [(lambda x: F.silu(x - 0.5), FLAT)],
    "gelu": [(lambda x: F.gelu(x - 0.5), FLAT), (nn.GELU("tanh"), FLAT)],
    "softplus": [(lambda x: F.softplus(x - 0.5), FLAT), (nn.Softplus(5, 1), FLAT)],
    "log_sigmoid": [(lambda x: F.logsigmoid(4 * x - 2), FLAT)],
    "elu": [(lambda x: F.elu(x - 0.5), FLAT), (lambda x: F.elu(x - 0.5, 1.7), FLAT)],
    "selu": [(lambda x: F.selu(x - 0.5), FLAT)],
    "celu": [(lambda x: F.celu(x - 0.5, 0.3), FLAT)],
    "max_pool1d": [(lambda x: F.max_pool1d(x, 3, 2, 1), SIGNAL)],
    "marginkit.models.one_lipschitz.maxmin": [(maxmin, FLAT), (maxmin, (5, 3, 2))],
    "max_pool2d": [(lambda x: F.max_pool2d(x, (2, 3), 1, 1), IMAGE), (nn.MaxPool2d(2), IMAGE)],
    **{
        name: [(lambda x, name=name: getattr(F, name)(x, 0.5, False), shape)]
        for name, shape in {
            "dropout": FLAT, "dropout1d": SIGNAL, "dropout2d": IMAGE, "dropout3d": (1, 4, 4, 4),
            "alpha_dropout": FLAT, "feature_alpha_dropout": IMAGE,
        }.items()
    },
}  # fmt: skip


class Wrapped(nn.Module):
    """The example between layers that mix, so that its input is a sum and its intervals come from bounds."""

    def __init__(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> None:
        super().__init__()
        features = torch.Size(shape).numel()
        torch.manual_seed(features)
        self.function, self.shape = function, shape
        self.first = nn.Linear(features, features).double()
        out = function(torch.zeros(2, *shape, dtype=torch.float64))
        self.last = nn.Linear(out[0].numel(), 3).double()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x.flatten(1))).view(-1, *self.shape)
        return self.last(self.function(h).flatten(1))


CASES = [
    pytest.param(function, shape, id=f"{name}-{i}")
    for name, examples in EXAMPLES.items()
    for i, (function, shape) in enumerate(examples)
]


def example(function, shape) -> tuple[nn.Module, Tensor, Graph]:
    model = doubled(Wrapped(function, shape))
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        return model, x, trace(model, x)


def test_every_function_has_an_example():
    assert {name for name, examples in EXAMPLES.items()} == set(FUNCTIONS)


def test_every_operation_is_among_the_examples():
    seen = {type(node.op) for function, shape in (p.values for p in CASES)
            for node in example(function, shape)[2].nodes}  # fmt: skip
    kinds = [kind for module in (ops, pairs, pooling, relaxations) for kind in vars(module).values()
             if isinstance(kind, type) and kind.__module__ == module.__name__]  # fmt: skip
    for kind in kinds:
        if (hasattr(kind, "transpose") or hasattr(kind, "lines")) and not hasattr(kind, "_is_protocol"):
            assert kind in seen, kind


@pytest.mark.quick
@pytest.mark.parametrize(("function", "shape"), CASES)
def test_a_transpose_is_one(function, shape):
    """<a, op z - op 0> = <op^T a, z>."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).reshape(len(a), -1).sum(1)

    _, _, graph = example(function, shape)
    generator = torch.Generator().manual_seed(0)
    for node in graph.nodes[1:]:
        if not affine(node.op):
            continue
        shapes = [graph.nodes[i].shape for i in node.inputs]
        z = [torch.randn(5, *s, generator=generator, dtype=torch.float64) for s in shapes]
        a = torch.randn(5, *node.shape, generator=generator, dtype=torch.float64)
        moved = node.op(*z) - node.op(*(torch.zeros_like(part) for part in z))
        back = node.op.transpose(a, shapes)
        assert [part.shape[1:] for part in back] == list(map(torch.Size, shapes))
        right = sum(map(inner, back, z))
        size = inner(a.abs(), moved.abs()) + sum(
            inner(b.abs(), part.abs()) for b, part in zip(back, z, strict=True)
        )
        assert ((inner(a, moved) - right).abs() <= 1e-12 * size).all(), node.op


@pytest.mark.parametrize(("function", "shape"), CASES)
@torch.no_grad()
def test_in_float32_everything_stays_there(function, shape):
    """Constants too: branch and bound climbs in float32."""
    _, x, graph = example(function, shape)
    values = [x.float()]
    for node in rounded(graph, torch.float32).nodes[1:]:
        values.append(node.op(*(values[i] for i in node.inputs)))
        assert values[-1].dtype == torch.float32, node.op
        if affine(node.op):
            back = node.op.transpose(values[-1], [graph.nodes[i].shape for i in node.inputs])
            assert all(part.dtype == torch.float32 for part in back), node.op
        else:
            lines = node.op.lines(values[node.inputs[0]] - 1, values[node.inputs[0]] + 1, False)
            assert all(part.dtype == torch.float32 for part in lines.backward(values[-1].unsqueeze(1)))
    assert_close(values[-1].double(), graph(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("function", "shape"), CASES)
def test_intervals_and_lines_hold_what_the_operation_gives(function, shape):
    _, _, graph = example(function, shape)
    generator = torch.Generator().manual_seed(0)
    for node in graph.nodes[1:]:
        shapes = [graph.nodes[i].shape for i in node.inputs]
        low = [torch.randn(4, *s, generator=generator, dtype=torch.float64) for s in shapes]
        width = torch.tensor([0, 0.1, 1, 5], dtype=torch.float64)
        high = [end + width.view(-1, *[1] * (end.ndim - 1)) for end in low]
        boxes = list(zip(low, high, strict=True))
        least, most = node.op.interval(*boxes)
        points = []
        for _ in range(200):
            share = [torch.rand(end.shape, generator=generator, dtype=torch.float64) for end in low]
            share = [part.round() if len(points) % 2 else part for part in share]
            points.append([a + s * (b - a) for (a, b), s in zip(boxes, share, strict=True)])
            value = node.op(*points[-1])
            slack = 1e-12 * (1 + value.abs())
            assert (least <= value + slack).all(), node.op
            assert (most >= value - slack).all(), node.op
        if nonlinear(node.op):
            for same in (False, True):
                lines = node.op.lines(low[0], high[0], same)
                a = torch.randn(4, 3, *node.shape, generator=generator, dtype=torch.float64)
                back, offset = lines.backward(a)
                for (point,) in points:
                    bound = (back * point.unsqueeze(1)).flatten(2).sum(2) + offset
                    true = (a * node.op(point).unsqueeze(1)).flatten(2).sum(2)
                    assert (bound <= true + 1e-10).all(), node.op


@pytest.mark.parametrize(
    ("function", "shape", "norm"),
    [
        pytest.param(*case.values, norm, id=f"{case.id}-{norm}")
        for case, norm in in_turn(CASES, turns=[L2, LINF])
    ],
)
def test_bounds_of_the_scores_hold_in_the_ball(function, shape, norm):
    model, x, graph = example(function, shape)
    eye = torch.eye(3, dtype=torch.float64)
    targets = torch.cat([eye, -eye]).expand(len(x), -1, -1)
    radius = torch.full((len(x),), 0.3, dtype=torch.float64)
    ball = Ball(x, radius, norm, (0 - x).clamp(max=0), (1 - x).clamp(min=0))
    bounds = [
        Propagation(tightness, ascents=2)(graph, ball, targets) for tightness in ("ibp", "crown-ibp", "crown")
    ]
    moved = torch.randn(300, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved[::2] = moved[::2].sign()
    length = torch.stack([norm.length(part) for part in moved]).view(300, -1, *[1] * len(shape))
    points = (x + 0.3 * moved / length).clamp(0, 1)
    with torch.no_grad():
        scores = model(points.flatten(0, 1)).view(300, len(x), 3)
        assert_close(graph(x), model(x), rtol=1e-12, atol=1e-12)
    reached = (scores @ targets[0].T).amin(0)
    for bound in bounds:
        assert (bound <= reached + 1e-10).all()
    assert (bounds[2] > -torch.inf).all()


@pytest.mark.parametrize(
    ("function", "shape", "named"),
    [
        (nn.LayerNorm(6).double(), FLAT, "layer_norm"),
        (nn.GroupNorm(1, 2).double(), IMAGE, "group_norm"),
        (nn.InstanceNorm2d(2), IMAGE, "instance_norm"),
        (nn.Hardswish(), FLAT, "hardswish"),
        (nn.Softmax(1), FLAT, "softmax"),
        (lambda x: x.cumsum(1), FLAT, "cumsum"),
        (lambda x: x.max(1, keepdim=True).values, FLAT, "max"),
        (lambda x: x**2, FLAT, "pow"),
        (lambda x: x.clamp(max=1e9), FLAT, "limit"),
        (lambda x: torch.where(x > 0, x, 0.0), FLAT, "gt"),
        (lambda x: x.float().double(), FLAT, "float32"),
        (lambda x: F.interpolate(x, 9, mode="bicubic"), IMAGE, "bicubic"),
        (lambda x: F.linear(x, x)[:, :2], FLAT, "linear"),
        (lambda x: torch.vstack([x, x])[: len(x)], FLAT, "vstack"),
    ],
)
def test_what_has_no_bounds_is_named_with_its_module(function, shape, named):
    model = Wrapped(function, shape).double()
    x = torch.rand(3, *shape, dtype=torch.float64)
    found = Crown()(model, x, model(x).argmax(1), Threat(L2))
    assert found.note.startswith("no bounds for ")
    assert named in found.note
    assert "Wrapped" in found.note or "function (" in found.note
    assert "fx" not in found.note
    assert not found.lower.any()

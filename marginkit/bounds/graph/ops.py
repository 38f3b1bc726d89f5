"""The operations that bounds go through, each with its value, its interval rule and its linear rule.

Values are [n, *shape]. An affine operation gives its transpose: coefficients [m, *out] of its outputs become
coefficients [m, *in] of its inputs. Any other gives `lines` that enclose it on an interval
(`relaxations.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_input, conv2d_input, conv3d_input

FEW = 4  # channels

Interval = tuple[Tensor, Tensor]
Shape = tuple[int, ...]


@runtime_checkable
class LinearBounds(Protocol):
    """A lower and an upper linear function of a nonlinear operation's input."""

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients [n, rows, *out] -> those [n, rows, *in] of a lower bound, and its constant."""
        ...


@runtime_checkable
class Affine(Protocol):
    """An affine operation of one input or of several.

    Attributes:
        mixes: 0 where every output depends on one input entry, 1 where on several, 2 where their intervals
            may already be dependent.
    """

    @property
    def mixes(self) -> int: ...  # noqa: D102

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        ...

    def interval(self, *inputs: Interval) -> Interval:
        """The smallest box that holds the values of a box of inputs."""
        ...

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """Coefficients of the inputs, one tensor each."""
        ...


@runtime_checkable
class Nonlinear(Protocol):
    """An operation enclosed by lines.

    Attributes:
        piecewise: its lines are exact wherever the input's interval has one sign, so that only
            intervals around 0 want tightening.
    """

    piecewise: ClassVar[bool]

    def __call__(self, x: Tensor) -> Tensor:
        """The value."""
        ...

    def interval(self, x: Interval) -> Interval:
        """A box that holds the values of a box of inputs."""
        ...

    def lines(self, low: Tensor, high: Tensor, same: bool) -> LinearBounds:
        """Lines that enclose the operation on [low, high]; parallel ones where `same`."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """x W^T + b on the last axis."""

    weight: Tensor
    bias: Tensor | None
    mixes: ClassVar[int] = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return F.linear(inputs[0], self.weight, self.bias)

    def interval(self, *inputs: Interval) -> Interval:
        """Centre and radius, the latter by |W|."""
        centre, radius = _ball(inputs[0])
        return _ends(self(centre), F.linear(radius, self.weight.abs()))

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """Times the weight."""
        return (a @ self.weight,)


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution in one to three dimensions, padded with zeros."""

    weight: Tensor
    bias: Tensor | None
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    mixes: ClassVar[int] = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return self._convolve(inputs[0], self.weight, self.bias)

    def interval(self, *inputs: Interval) -> Interval:
        """Centre and radius, the latter by |W|."""
        centre, radius = _ball(inputs[0])
        return _ends(self(centre), self._convolve(radius, self.weight.abs(), None))

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """The transposed convolution, in which every input entry keeps its place."""
        return (self.transpose_to((len(a), *shapes[0]), a, self.padding),)

    def transpose_to(self, size: Shape, a: Tensor, padding: Shape) -> Tensor:
        """The same to inputs of another size, padded otherwise."""
        if self.weight.ndim == 4 and self.groups == 1 and size[1] <= FEW:  # oneDNN's kernel is slow there
            columns = self.weight.flatten(1).T @ a.flatten(2)
            spans = self.weight.shape[2:], self.dilation, padding, self.stride
            return F.fold(columns, size[2:], *spans)
        back = (conv1d_input, conv2d_input, conv3d_input)[self.weight.ndim - 3]
        return back(  # type: ignore[no-any-return, no-untyped-call]
            size, self.weight, a, self.stride, padding, self.dilation, self.groups
        )

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[weight.ndim - 3]
        return convolve(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


@dataclass(frozen=True, eq=False)
class TransposedConvolution:
    """A transposed convolution in one to three dimensions."""

    weight: Tensor
    bias: Tensor | None
    stride: Shape
    padding: Shape
    output_padding: Shape
    dilation: Shape
    groups: int
    mixes: ClassVar[int] = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return self._convolve(inputs[0], self.weight, self.bias)

    def interval(self, *inputs: Interval) -> Interval:
        """Centre and radius, the latter by |W|."""
        centre, radius = _ball(inputs[0])
        return _ends(self(centre), self._convolve(radius, self.weight.abs(), None))

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """The convolution; output padding beyond the stride makes its result too long."""
        convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[self.weight.ndim - 3]
        back = convolve(a, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        for axis, size in enumerate(shapes[0][1:], 2):
            back = back.narrow(axis, 0, size)
        return (back,)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        convolve: Callable[..., Tensor] = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[
            weight.ndim - 3
        ]
        options = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        return convolve(x, weight, bias, *options)


@dataclass(frozen=True, eq=False)
class Scale:
    """scale * x + shift, entry by entry; both broadcast to one sample."""

    scale: Tensor
    shift: Tensor
    mixes: ClassVar[int] = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return inputs[0] * self.scale + self.shift

    def interval(self, *inputs: Interval) -> Interval:
        """The ends change places where the scale is negative."""
        low, high = self(inputs[0][0]), self(inputs[0][1])
        return torch.minimum(low, high), torch.maximum(low, high)

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """The same scale; summed over what was broadcast."""
        return ((a * self.scale).sum_to_size(len(a), *shapes[0]),)


@dataclass(frozen=True)
class Reshape:
    """The same entries in the same order."""

    shape: Shape
    mixes: ClassVar[int] = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return inputs[0].reshape(len(inputs[0]), *self.shape)

    def interval(self, *inputs: Interval) -> Interval:
        """End by end."""
        return self(inputs[0][0]), self(inputs[0][1])

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """The shape it had."""
        return (a.reshape(len(a), *shapes[0]),)


@dataclass(frozen=True, eq=False)
class Positive:
    """An affine operation whose weights are not negative: averaging, rearranging, adding two branches."""

    function: Callable[..., Tensor]
    mixes: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value, in the inputs' precision whatever that of constants in the function."""
        return self.function(*inputs).to(inputs[0].dtype)

    def interval(self, *inputs: Interval) -> Interval:
        """Monotone: end by end."""
        return self(*(low for low, _ in inputs)), self(*(high for _, high in inputs))

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """By differentiation."""
        with torch.enable_grad():
            inputs = [a.new_zeros((len(a), *shape)).requires_grad_() for shape in shapes]
            out = self(*inputs)
            return torch.autograd.grad(out, inputs, a, create_graph=a.requires_grad)


@dataclass(frozen=True, eq=False)
class Difference:
    """a - b of two values."""

    mixes: ClassVar[int] = 2

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        return inputs[0] - inputs[1]

    def interval(self, *inputs: Interval) -> Interval:
        """The ends of b change places."""
        (low, high), (less, more) = inputs
        return low - more, high - less

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """Both, the second negative."""
        return a, -a


def _ball(interval: Interval) -> tuple[Tensor, Tensor]:
    low, high = interval
    return (low + high) / 2, (high - low) / 2


def _ends(centre: Tensor, radius: Tensor) -> Interval:
    return centre - radius, centre + radius

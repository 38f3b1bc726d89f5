"""A forward pass as it really runs, written down operation by operation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from marginkit.bounds.graph.call import Builder, Call, Node, Symbol, symbols
from marginkit.bounds.graph.functions import FUNCTIONS
from marginkit.bounds.graph.memory import Memory, tensors, version
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.errors import MarginkitError
from marginkit.guard.answer import scores_of

_LOOKS = """size dim ndim ndimension shape stride numel nelement __len__ device dtype layout is_contiguous
    is_floating_point is_complex is_signed requires_grad element_size itemsize nbytes storage_offset is_cuda
    is_cpu is_meta is_sparse is_quantized is_mkldnn is_nested is_leaf is_inference is_same_size get_device
    names has_names type grad grad_fn _version _is_view data_ptr __hash__ register_hook"""
LOOKS = frozenset(_LOOKS.split())  # what they answer is the same for all inputs of one shape

_FRESH = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty"
FRESH = frozenset(_FRESH.split())  # they take a shape from their argument, and no value


def record(model: nn.Module, pair: Tensor) -> tuple[Node, ...]:
    """The operations between two samples and their scores, of which the last node is.

    The model itself runs, so hooks, forward methods of whatever origin, parametrisations and control flow
    count as they do in any forward pass.

    Raises:
        Unsupported: what the scores depend on has an operation without bounds, looks at values to decide
            how to go on, or fails.
    """
    recorder = _Recorder(pair)
    _refuse_compiled(model)
    with _named(model, recorder.path), torch.autocast(pair.device.type, enabled=False):
        try:
            with recorder:
                found = model(pair)
        except Exception as error:
            if recorder.stop is not None:
                raise Unsupported(recorder.stop) from None
            first = (str(error).splitlines() or [""])[0][:120]
            raise Unsupported(
                f"a forward pass that fails in {recorder.where} ({type(error).__name__}: {first})"
            ) from error
    if recorder.stop is not None:
        raise Unsupported(recorder.stop)
    try:
        position = recorder.memory.read(scores_of(found, len(pair)))
    except MarginkitError:
        position = None
    if position is None:
        raise Unsupported("an output without scores that PyTorch's functions compute from the input")
    for constant, count in recorder.constants.values():
        if version(constant) != count:
            raise Unsupported("a constant that the forward pass uses and then changes in place")
    return recorder.builder.needed(position)


class _Recorder(TorchFunctionMode):
    """Sees every call of a function or method of PyTorch's.

    Attributes:
        path: the modules whose forward pass is running.
        stop: why the forward pass can't be followed at all.
        constants: what it used beside the input, and how often that had been changed.
    """

    def __init__(self, pair: Tensor) -> None:
        super().__init__()
        self.builder = Builder()
        self.memory = Memory(self.builder)
        self.dtype = pair.dtype
        self.path: list[str] = []
        self.stop: str | None = None
        self.constants: dict[int, tuple[Tensor, int]] = {}
        self.memory.keep(pair, self.builder.add(None, shape=tuple(pair.shape[1:])))

    @property
    def where(self) -> str:
        """The module that runs."""
        return self.path[-1] if self.path else "the model"

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function, and writes down what it did to what depends on the input."""
        kwargs = kwargs or {}
        before = [(tensor, version(tensor)) for tensor in tensors((args, kwargs))]
        given, named = self._symbolic(func, args), self._symbolic(func, kwargs)
        value = func(*args, **kwargs)
        name = _name(func)
        if not symbols([given, named]) or (name in FRESH and not symbols([given[1:], named])):
            return value
        for tensor, count in before:
            if self.memory.read(tensor) is None:
                self.constants.setdefault(id(tensor), (tensor, count))
        written = [tensor for tensor, count in before if version(tensor) != count]
        if isinstance(value, Tensor):
            self._result(value, written, self._call(func, name, given, named, value))
        elif name == "setitem":
            self._result(args[0], [args[0]], self._call(func, name, given, named, args[0]))
        elif isinstance(value, tuple | list) and value and all(isinstance(part, Tensor) for part in value):
            for i, part in enumerate(value):
                self._result(part, [], self._call(_part(func, i), name, given, named, part))
        elif name not in LOOKS:
            if value is not None or not (written or name.startswith("set ")):
                self.stop = f"{name} in {self.where}: a forward pass that looks at values can't be traced"
                raise Unsupported(self.stop)
            for tensor in written or [args[0]]:
                self._result(tensor, [tensor], self.builder.refuse(f"{name} in {self.where}", tensor))
        return value

    def _symbolic(self, func: Any, arguments: Any) -> Any:
        """The arguments with symbols for what depends on the input."""
        if isinstance(arguments, Tensor):
            position = self.memory.read(arguments)
            if position is not None:
                return Symbol(position)
            return arguments.clone() if getattr(func, "__name__", "") == "__setitem__" else arguments
        if isinstance(arguments, dict):
            return {key: self._symbolic(func, entry) for key, entry in arguments.items()}
        if type(arguments) in (list, tuple):
            return type(arguments)(self._symbolic(func, entry) for entry in arguments)
        return arguments

    def _result(self, value: Tensor, written: list[Tensor], position: int) -> None:
        """Notes down which tensor holds a result, and what else was changed."""
        if any(value is tensor for tensor in written):
            self.constants.pop(id(value), None)  # from now on it is none
            self.memory.write(value, position)
            storage = value.untyped_storage().data_ptr()
            written = [tensor for tensor in written if tensor.untyped_storage().data_ptr() != storage]
        else:
            self.memory.keep(value, position)
        for tensor in written:
            self.memory.write(tensor, self.builder.refuse(f"a change in place in {self.where}", tensor))

    def _call(self, func: Any, name: str, args: Any, kwargs: Any, value: Tensor) -> int:
        """The node of a result."""
        inputs = [symbol.position for symbol in symbols([args, kwargs])]
        call = Call(name, self.where, args, kwargs, value, self.builder)
        reason = self.builder.refused(*inputs)
        if reason is None:
            try:
                return self._operation(func, call)
            except Unsupported as found:
                reason = str(found)
            except (RuntimeError, TypeError, ValueError, IndexError, KeyError):
                reason = str(call.unsupported("as it is called here"))
        return self.builder.refuse(reason, value)

    def _operation(self, func: Any, call: Call) -> int:
        if call.value.is_inference():
            raise call.unsupported("in inference mode changes in place can't be seen")
        if call.name not in FUNCTIONS:
            raise call.unsupported()
        if call.value.dtype != self.dtype:
            raise call.unsupported(f"it gives {call.value.dtype} in a proof in {self.dtype}")
        if call.value.shape[:1] != (2,):
            raise call.unsupported("it mixes samples: each has no result of its own")
        return FUNCTIONS[call.name](func, call)


def _name(func: Any) -> str:
    """The same for a function, a method, and what works in place."""
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        owner = getattr(getattr(func, "__self__", None), "__name__", "")
        return owner if name == "__get__" else f"set {owner}"
    module = getattr(func, "__module__", None) or "torch"
    if name in LOOKS:
        return name
    if module.partition(".")[0] != "torch" or module.startswith("torch._ops") or func is torch.batch_norm:
        return f"{module}.{name}"  # not what the names below stand for
    if name.startswith("__"):
        return name.strip("_")
    return name.removesuffix("_")


def _part(func: Callable[..., Any], i: int) -> Callable[..., Any]:
    return lambda *args, **kwargs: func(*args, **kwargs)[i]


def _refuse_compiled(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise Unsupported(
                f"a scripted module ({name or 'the model itself'}), whose operations are hidden"
            )


@contextmanager
def _named(model: nn.Module, path: list[str]) -> Iterator[None]:
    """Keeps in `path` which of the model's modules are running."""
    handles = []

    def leave(*_: Any) -> None:
        path.pop()

    for name, module in model.named_modules():
        label = f"{name} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"

        def enter(*_: Any, label: str = label) -> None:
            path.append(label)

        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=False))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

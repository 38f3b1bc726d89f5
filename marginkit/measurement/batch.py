"""One batch answered by every method, whatever goes wrong."""

from __future__ import annotations

import gc
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from marginkit.data.dataset import Batch
from marginkit.errors import MarginkitError, MethodError
from marginkit.events import Tell, unheard
from marginkit.kinds import Kind, Status
from marginkit.logits import check_scores, logit_margin, refuse_probabilities
from marginkit.measurement.contradictions import without_contradicted
from marginkit.measurement.known_brackets import Known
from marginkit.measurement.precision import Models, confirmed
from marginkit.measurement.requests import NO_TIME, Request
from marginkit.methods.constraints import FREE, Limits, at_the_input
from marginkit.norms import Vectors
from marginkit.table.table import Column, MarginTable
from marginkit.types import Bracket, Closing, Estimate

T = TypeVar("T")


@dataclass(frozen=True)
class Work:
    """Turns a batch into rows of a table.

    What a user can't mend does not stop it. Out of memory, a batch is done in halves; samples on which the
    model is not finite are NONFINITE; a method that raises leaves FAILED; one whose time is up TIMEOUT.
    `MarginkitError` is for the user, and passes through.

    Attributes:
        models: the classifier in its precisions.
        requests: what is asked.
        limits: a mask, a subspace or a grid.
        witnesses: keep adversarial inputs, and the inputs.
        seconds: at most about so many for each name in all; checked between batches.
        tell: hears of seconds, halvings and failures: what depends on the machine and not on the samples.
        spent: the seconds so far.
    """

    models: Models
    requests: Sequence[Request]
    limits: Limits = FREE
    witnesses: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    tell: Tell = unheard
    spent: dict[str, float] = field(default_factory=dict)

    def __call__(
        self, batch: Batch, wanted: Iterable[int] | None = None, known: MarginTable | None = None
    ) -> MarginTable:
        """Rows for the batch.

        Args:
            batch: positions, inputs and labels.
            wanted: the requests to answer; by default all.
            known: what a table says of these samples: where `exact` starts.
        """
        index, x, y = batch
        parts = halving(lambda part: [self.models.scores(x[part])], len(x), self._halved("scores"))
        scores = torch.cat(parts)
        check_scores(scores, y)
        finite = scores.isfinite().all(1)
        refuse_probabilities(scores[finite])
        before = dict(self.spent)
        chosen = self.requests if wanted is None else [self.requests[i] for i in wanted]
        columns = [column for request in chosen for column in self._columns(request, x, y, finite, known)]
        columns = without_contradicted(columns, self.tell)
        seconds = {
            name: round(spent - before.get(name, 0.0), 4)
            for name, spent in self.spent.items()
            if spent > before.get(name, 0.0)
        }
        self.tell("batch", first=int(index[0]), samples=len(x), seconds=seconds)
        margin, _ = logit_margin(scores, y)
        return MarginTable(
            _array(index),
            _array(y),
            _array(torch.where(finite, scores.argmax(1), -1)),
            _array(torch.where(finite, margin.double(), torch.nan)),
            tuple(columns),
            hash=hashes(x),
            input=_array(x.float()) if self.witnesses else None,
        )

    def _columns(
        self, request: Request, x: Vectors, y: Tensor, finite: Tensor, known: MarginTable | None
    ) -> list[Column]:
        name, shape = request.name, tuple(x.shape[1:]) if self.witnesses else None
        if self.spent.get(name, 0.0) >= self.seconds.get(name, np.inf):
            return request.blank(len(x), Status.TIMEOUT, NO_TIME, shape)
        rows = finite.nonzero().squeeze(1)
        outside = request.blank(len(x), Status.NONFINITE, shape=shape)
        if not len(rows):
            return outside
        began = time.monotonic()
        try:
            start = None if known is None else _start(request, known, tuple(x.shape[1:]))
            found = self._joined(request, x[rows], y[rows], start and start.part(rows.cpu()))
        except Exception as error:
            if isinstance(error, MarginkitError) and not isinstance(error, MethodError):
                raise
            note = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.tell("failed", column=name, norm=request.threat.norm.name, error=note)
            found = request.blank(len(rows), Status.FAILED, note, shape)
        self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - began
        return found if len(rows) == len(x) else _spread(found, outside, _array(rows))

    def _joined(self, request: Request, x: Vectors, y: Tensor, start: Bracket | None) -> list[Column]:
        parts = halving(
            lambda part: [list(self._answer(request, x[part], y[part], start and start.part(part)))],
            len(x),
            self._halved(request.name),
        )
        return parts[0] if len(parts) == 1 else [Column.join(pieces) for pieces in zip(*parts, strict=True)]

    def _answer(self, request: Request, x: Vectors, y: Tensor, start: Bracket | None) -> Iterator[Column]:
        """The one place where a method is called."""
        method = at_the_input(request.method, self.limits)
        model = self.models.of(request.method.kind)
        view = self.limits.view(model, x, request.threat, request.layer, request.method)
        if start is not None and isinstance(method, Closing):
            answer: Bracket | Estimate = method.close(view.model, view.x, y, view.threat, start)
        else:
            answer = method(view.model, view.x, y, view.threat)
        if (
            self.models.judge is not None
            and isinstance(answer, Bracket)
            and request.method.kind is Kind.UPPER
        ):
            judge = self.limits.view(self.models.judge, x, request.threat, request.layer, request.method)
            answer = confirmed(judge, y, answer, lambda rows: self._again(request, x[rows], y[rows]))
        restore = view.restore if self.witnesses else None
        yield from _to_columns(request, answer, restore)

    def _again(self, request: Request, x: Vectors, y: Tensor) -> Bracket:
        """The same search in the precision of proofs."""
        method = at_the_input(request.method, self.limits)
        view = self.limits.view(self.models.plain, x, request.threat, request.layer, request.method)
        found = method(view.model, view.x, y, view.threat)
        assert isinstance(found, Bracket)
        return found

    def _halved(self, name: str) -> Callable[[int], None]:
        return lambda samples: self.tell("out of memory", column=name, samples=samples)


def halving(compute: Callable[[slice], list[T]], n: int, halved: Callable[[int], None]) -> list[T]:
    """What `compute` gives for the samples 0..n, asked for in ever smaller pieces while memory runs out.

    Raises:
        RuntimeError: even one sample does not fit, or anything else that `compute` raises.
    """

    def piece(start: int, stop: int) -> list[T]:
        try:
            return compute(slice(start, stop))
        except RuntimeError as error:
            if stop - start < 2 or not out_of_memory(error):
                raise
        # not within the except block, where the error's traceback still holds the tensors
        halved(stop - start)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (start + stop) // 2
        return piece(start, middle) + piece(middle, stop)

    return piece(0, n)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU, or PyTorch's allocator for the CPU, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _start(request: Request, known: MarginTable, shape: tuple[int, ...]) -> Bracket | None:
    """The table's bracket, for a method that goes on from one."""
    if not isinstance(request.method, Closing):
        return None
    norm = request.threat.norm.name
    return Known.of(known, norm, request.threat, shape).bracket(list(range(len(known))))


def _spread(found: list[Column], outside: list[Column], rows: np.ndarray) -> list[Column]:
    """The answers of some rows among the vacuous ones of the others."""
    return [outer.with_rows(rows, inner) for inner, outer in zip(found, outside, strict=True)]


def hashes(x: Tensor) -> np.ndarray:
    """64 bits of each input's BLAKE2b, of its values in float32: the same input has the same everywhere."""
    rows = _array(x.float())
    found = [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _to_columns(
    request: Request, answer: Bracket | Estimate, restore: Callable[[Tensor], Tensor] | None
) -> Iterator[Column]:
    name, norm, kind = request.name, request.threat.norm.name, request.method.kind
    if isinstance(answer, Estimate):
        for i, layer in enumerate(answer.layers):
            distance, status, rival = (
                _array(part[:, i]) for part in (answer.distance, answer.status, answer.rival)
            )
            yield Column(name, norm, layer, kind, request.options, distance, status, rival)
        return
    for place in request.places:
        proved = kind in (Kind.LOWER, Kind.SMOOTHED) or place == "lower"
        end = answer.lower if proved else answer.upper
        distance, status, rival = (_array(part) for part in (end, answer.status, answer.rival))
        witness = None
        if restore is not None and answer.witness is not None and place != "lower":
            witness = _array(restore(answer.witness))
        which = request.end(place)
        about = (name, norm, request.layer if which else place, kind, request.options)
        yield Column(*about, distance, status, rival, witness, answer.note, which)


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found

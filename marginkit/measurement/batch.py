"""One batch answered by every method, whatever goes wrong."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from marginkit.data.dataset import Batch
from marginkit.errors import MarginkitError, MethodError
from marginkit.events import BatchDone, Failed, OnEvent, unheard
from marginkit.guard.passes import Meter
from marginkit.guard.sharing import sharing
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels, Scores, answered, check_scores, logit_margin, refuse_probabilities
from marginkit.measurement.contradictions import without_contradicted
from marginkit.measurement.known_brackets import Known
from marginkit.measurement.memory import halving
from marginkit.measurement.precision import Models, confirmed
from marginkit.measurement.requests import NO_TIME, Request, array
from marginkit.methods.constraints import Limits, at_the_input
from marginkit.norms import Vectors
from marginkit.table.table import Column, MarginTable
from marginkit.types import Bracket, Closing, Estimate


class Clock:
    """Seconds spent under each name, and how many there are to spend."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        """With nothing spent."""
        self.limits = limits
        self.spent: dict[str, float] = {}

    def is_up(self, name: str) -> bool:
        """Whether the name's time is over."""
        return self.spent.get(name, 0.0) >= self.limits.get(name, np.inf)

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Counts for the name."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.spent[name] = self.spent.get(name, 0.0) + time.monotonic() - began

    def since(self, before: dict[str, float]) -> dict[str, float]:
        """What was spent since `spent` was as before."""
        gained = {name: spent - before.get(name, 0.0) for name, spent in self.spent.items()}
        return {name: round(seconds, 4) for name, seconds in gained.items() if seconds > 0}


@dataclass(frozen=True)
class BatchRunner:
    """Turns a batch into rows of a table.

    What a user can't mend does not stop it. Out of memory, a batch is done in halves; samples on which the
    model is not finite are NONFINITE; a method that raises leaves FAILED; one whose time is up TIMEOUT.
    `MarginkitError` is for the user, and passes through.

    Attributes:
        models: the classifier in its precisions.
        requests: what is asked.
        limits: a mask, a subspace or a grid.
        witnesses: keep adversarial inputs, and the inputs.
        clock: at most about so many seconds for each name in all; looked at between batches.
        on_event: hears of seconds, halvings and failures: what depends on the machine and not on the samples.
        meter: tells its own listener that a method is still at work.
    """

    models: Models
    requests: Sequence[Request]
    limits: Limits
    witnesses: bool
    clock: Clock
    on_event: OnEvent = unheard
    meter: Meter = field(default_factory=Meter)

    def __call__(
        self, batch: Batch, wanted: Iterable[int] | None = None, known: MarginTable | None = None
    ) -> MarginTable:
        """Rows for the batch.

        Args:
            batch: positions, inputs and labels.
            wanted: the requests to answer; by default all.
            known: what a table says of these samples: where `exact` starts.
        """
        with sharing():
            return self._answered(batch, wanted, known)

    def _answered(self, batch: Batch, wanted: Iterable[int] | None, known: MarginTable | None) -> MarginTable:
        index, x, y = batch
        scores = self._scores(x)
        check_scores(scores, y)
        finite = answered(scores)
        refuse_probabilities(scores[finite])
        before = dict(self.clock.spent)
        chosen = self.requests if wanted is None else [self.requests[i] for i in wanted]
        rows = _Rows(x, y, finite.nonzero().squeeze(1), known)
        columns = [column for request in chosen for column in self._columns(request, rows)]
        columns = without_contradicted(columns, self.on_event)
        self.on_event(BatchDone(int(index[0]), len(x), self.clock.since(before)))
        margin, _ = logit_margin(scores, y)
        return MarginTable(
            array(index),
            array(y).astype(np.int32),
            array(torch.where(finite, scores.argmax(1), -1)).astype(np.int32),
            array(torch.where(margin.isfinite(), margin.double(), torch.nan)),
            tuple(columns),
            hash=hashes(x),
            input=array(x.float()) if self.witnesses else None,
        )

    def _scores(self, x: Vectors) -> Scores:
        parts = halving(lambda part: self.models.scores(x[part]), len(x), "scores", self.on_event)
        return torch.cat(parts)

    def _columns(self, request: Request, rows: _Rows) -> list[Column]:
        """One request's answer for every sample, and what becomes of those that it has none for."""
        shape, n = rows.shape if self.witnesses else None, len(rows.x)
        if self.clock.is_up(request.name):
            return request.blank(n, Status.TIMEOUT, NO_TIME, shape)
        outside = request.blank(n, Status.NONFINITE, shape=shape)
        if not len(rows.finite):
            return outside
        try:
            self.meter.begin(request.name)
            with self.clock.running(request.name), self.meter.counting(self.models.of(request.method.kind)):
                found = self._joined(request, rows.x[rows.finite], rows.y[rows.finite], rows.start(request))
        except Exception as error:
            if isinstance(error, MarginkitError) and not isinstance(error, MethodError):
                raise
            note = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            self.on_event(Failed(request.name, request.threat.norm.name, note))
            found = request.blank(len(rows.finite), Status.FAILED, note, shape)
        return found if len(rows.finite) == n else _spread(found, outside, array(rows.finite))

    def _joined(self, request: Request, x: Vectors, y: Labels, start: Bracket | None) -> list[Column]:
        parts = halving(
            lambda part: self._answer(request, x[part], y[part], start and start.part(part)),
            len(x), request.name, self.on_event,
        )  # fmt: skip
        return parts[0] if len(parts) == 1 else [Column.join(pieces) for pieces in zip(*parts, strict=True)]

    def _answer(self, request: Request, x: Vectors, y: Labels, start: Bracket | None) -> list[Column]:
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
        return request.columns(answer, view.restore if self.witnesses else None)

    def _again(self, request: Request, x: Vectors, y: Labels) -> Bracket:
        """The same search in the precision of proofs."""
        method = at_the_input(request.method, self.limits)
        view = self.limits.view(self.models.plain, x, request.threat, request.layer, request.method)
        found = method(view.model, view.x, y, view.threat)
        assert isinstance(found, Bracket)
        return found


@dataclass(frozen=True)
class _Rows:
    """A batch, the positions in it of samples with finite scores, and what a table knows of it."""

    x: Vectors
    y: Labels
    finite: Tensor
    known: MarginTable | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    def start(self, request: Request) -> Bracket | None:
        """The table's brackets of the finite samples, for a method that goes on from them."""
        if self.known is None or not isinstance(request.method, Closing):
            return None
        known = Known.of(self.known, request.threat, self.shape)
        return known.bracket(self.finite.tolist())


def _spread(found: list[Column], outside: list[Column], rows: np.ndarray) -> list[Column]:
    """The answers of some rows among the vacuous ones of the others."""
    return [outer.with_rows(rows, inner) for inner, outer in zip(found, outside, strict=True)]


def hashes(x: Tensor) -> np.ndarray:
    """64 bits of each input's BLAKE2b, of its values in float32: the same input has the same everywhere."""
    rows = array(x.float())
    found = [hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)

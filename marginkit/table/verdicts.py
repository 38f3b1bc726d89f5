"""What is checked, when it is a doubt, and what to do then. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from marginkit.files.untrusted import printable
from marginkit.table.provenance import Provenance
from marginkit.table.records import Judged

KEY = "reliability"  # of a table's provenance
LONGEST = 200  # of a note that is shown
LARGEST = 1e9  # a figure in place of infinity, which JSON does not have


@dataclass(frozen=True)
class Check:
    """One symptom of a measurement that says more about the search than about the model.

    Attributes:
        figure: what is measured.
        above: raised where the figure exceeds this.
        doubt: what a raised figure means, as a sentence without its end.
        advice: what to do.
        source: where the check comes from.
    """

    figure: str
    above: float
    doubt: str
    advice: str
    source: str


CARLINI, ATHALYE, PINTOR = "arXiv 1902.06705", "arXiv 1802.00420", "arXiv 2106.09947"
CROCE, SQUARE, MADRY = "arXiv 2003.01690", "arXiv 1912.00049", "arXiv 1706.06083"

CHECKS: dict[str, Check] = {
    "randomised": Check(
        "largest change of a score, over its sample's range of scores, when the same batch is given again",
        1e-4,
        "the model answers differently when asked twice",
        "seed it or average it; a search follows one draw and is judged by another",
        CARLINI,
    ),
    "batch-dependent": Check(
        "largest change of a score, over its sample's range of scores, when samples come one by one",
        0.01,
        "a sample's scores depend on the other samples in its batch",
        "take batch statistics out of the model",
        CARLINI,
    ),
    "batch-statistics": Check(
        "layers that stay in train mode after eval(), or that have no running statistics, or whose buffers a"
        " forward pass changes",
        0,
        "layers keep learning, or use the batch's statistics, while they are measured",
        "let eval() reach every BatchNorm and give each its running statistics",
        CARLINI,
    ),
    "probabilities": Check(
        "share of samples whose scores all lie in [0, 1]",
        0.99,
        "the scores look squashed into [0, 1], where gradients vanish",
        "take the last sigmoid or softmax away and give logits",
        CROCE,
    ),
    "missing-classes": Check(
        "share of the data set's classes of which no sample is measured, though there are as many samples",
        0,
        "classes of the data set are missing from the samples",
        "data sorted by class begin with few of them: take --limit in place of --first",
        CARLINI,
    ),
    "imprecise": Check(
        "median of the lead that rounding calls for at the boundary, over the logit margin",
        0.01,
        "scores have so few digits that distances come out too long",
        "give the model in float32, or take the large constant off its scores",
        "arXiv 2106.09947",
    ),
    "no-gradient": Check(
        "share of samples at which the logit margin's gradient is exactly zero, or not finite",
        0,
        "the gradient is zero or not finite at some samples, so that searches have nothing to follow",
        "replace what rounds, thresholds or saturates by something smooth in the backward pass (BPDA)",
        ATHALYE,
    ),
    "misleading-gradient": Check(
        "share of samples on which a short step along the gradient changes the logit margin by less than half"
        " or more than twice what the gradient says",
        0.5,
        "gradients do not say what a short step does: they are shattered or wrong",
        "attack a smoothed copy of the model, or trust gradient-free attacks only",
        ATHALYE,
    ),
    "optimistic-first-order": Check(
        "median of the first-order distance over the distance found",
        5,
        "first order promises far larger distances than were found",
        "do not read first_order of this model: its gradients are too flat",
        ATHALYE,
    ),
    "gradient-free-wins": Check(
        "share of samples on which random search without gradients is nearer by a fifth or more",
        0.15,
        "a search without gradients beats the one with gradients: the distances are too large",
        "gradients are masked, or the search is weak: try --option nearest.effort=tight",
        f"{CARLINI}, {SQUARE}",
    ),
    "not-converged": Check(
        "mean over samples of the relative decrease of the distance when the search has twice the steps",
        0.05,
        "twice the steps find clearly smaller distances: the search has not converged",
        "raise the steps or the effort until this stays small",
        f"{CARLINI}, {PINTOR}",
    ),
    "unbounded-fails": Check(
        "share of samples on which the search finds nothing though no box limits it",
        0,
        "the search fails although nothing limits it, which only a broken search can",
        "do not read its failures as robustness",
        f"{CARLINI}, {PINTOR}",
    ),
    "not-monotone": Check(
        "largest rise of robust accuracy from 2 to 4 or 4 to 8 times each sample's distance, PGD at each by"
        " itself",
        0.1,
        "robust accuracy rises with the radius, which the truth can't",
        "the gradient misleads at some radii: look at the statuses and try more starts",
        f"{CARLINI}, {MADRY}",
    ),
    "eight-bit": Check(
        "share of samples whose adversarial input has no 8-bit picture within 1.5 times its displacement",
        0.5,
        "the adversarial inputs do not survive rounding to 8 bits",
        "measure with --quantize 8bit where inputs are pictures",
        CARLINI,
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What one check said.

    Attributes:
        check: a name from CHECKS.
        raised: whether it is a doubt.
        figure: see CHECKS; None where the check does not apply, or crashed.
        where: the column or norm with the largest figure; may be empty.
        note: why it does not apply, or what it crashed with; else empty.
    """

    check: str
    raised: bool
    figure: float | None
    where: str = ""
    note: str = ""

    @staticmethod
    def of(check: str, figure: float | None, where: str = "", note: str = "") -> Verdict:
        """Raised where the figure exceeds the check's threshold."""
        if figure is None or math.isnan(figure):
            return Verdict(check, False, None, where, note or "does not apply here")
        figure = min(float(figure), LARGEST)
        return Verdict(check, figure > CHECKS[check].above, figure, where, note)

    @staticmethod
    def of_crash(check: str, error: Exception) -> Verdict:
        """Raised: a check without an answer is a doubt."""
        said = str(error).partition("\n")[0] or type(error).__name__
        return Verdict(check, True, None, note=f"failed: {said}")

    @property
    def crashed(self) -> bool:
        """Whether the check had no answer although it applies."""
        return self.raised and self.figure is None

    @property
    def text(self) -> str:
        """A sentence for people, made of nothing but CHECKS and the figure."""
        about = CHECKS[self.check]
        return f"{about.doubt} ({about.figure}: {self.figure or 0:.3g}). To do: {about.advice}."


def combined(before: Provenance, now: Provenance) -> Provenance:
    """The later record; of the checks of both on the same file, for each the one that doubts more."""
    if now.reliability is None:
        return now
    old = {} if before.reliability is None else {v.check: v for v in before.reliability.verdicts}

    def doubt(entry: Judged) -> tuple[bool, float]:
        return entry.raised, -1.0 if entry.figure is None else entry.figure

    found = [max(entry, old.get(entry.check, entry), key=doubt) for entry in now.reliability.verdicts]
    kept = {**now.reliability.plain(), "verdicts": [entry.plain() for entry in found]}
    return now.updated({KEY: kept})


def verdicts(provenance: Provenance) -> Iterator[Verdict]:
    """What a table's provenance says of the checks that there are; of others, newer ones, nothing."""
    for found in provenance.reliability.verdicts if provenance.reliability else []:
        if found.check in CHECKS:
            note = printable(found.note)[:LONGEST]
            yield Verdict(found.check, found.raised, found.figure, note=note)

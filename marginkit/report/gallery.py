"""Pictures of samples and of what changes a model's mind, where the tables hold them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison.alignment import Aligned
from marginkit.comparison.compare import Comparison
from marginkit.comparison.samples import Sample
from marginkit.report.one_sample import by_method
from marginkit.report.rows import Rows
from marginkit.table.brackets import has_end
from marginkit.table.table import MarginTable

LARGEST = 64  # pixels a side: larger pictures are thinned
TITLES = {"gained": "Gained most", "lost": "Lost most", "nearest": "Nearest to B's boundary"}


@dataclass(frozen=True)
class Picture:
    """An image as a data: URI, and what to say of it."""

    uri: str
    text: str


@dataclass(frozen=True)
class Exhibit:
    """One sample: the clean image, each model's witness with the change amplified, what each method says."""

    sample: Sample
    pictures: tuple[Picture, ...]
    methods: Rows

    @property
    def anchor(self) -> str:
        """Where it is in the page, for links from elsewhere."""
        return f"{self.sample.norm}-{self.sample.why}-{self.sample.index}"


def gallery(c: Comparison, pair: Aligned) -> dict[str, list[Exhibit]]:
    """Exhibits by heading; empty where the tables keep no inputs and witnesses, or these are no images."""
    inputs = pair.tables[0].input
    if inputs is None or not _is_image(inputs):
        return {}
    found: dict[str, list[Exhibit]] = {}
    for sample in c.samples:
        pictures = tuple(_pictures(sample, pair.tables))
        if len(pictures) > 1:
            found.setdefault(f"{TITLES[sample.why]}, {sample.norm}", []).append(
                Exhibit(sample, pictures, by_method(sample, pair.tables))
            )
    return found


def _pictures(sample: Sample, tables: Sequence[MarginTable]) -> Iterator[Picture]:
    clean = tables[0].input
    assert clean is not None
    low, high = _box(tables[0])
    image = clean[sample.row]
    wrong = "".join(
        f"; {name} says {said}"
        for name, said in zip("AB", sample.predicted, strict=True)
        if said != sample.label
    )
    yield Picture(_png((image - low) / (high - low)), f"sample {sample.index}, class {sample.label}{wrong}")
    for name, table, distance in zip("AB", tables, sample.distance, strict=True):
        witness = _nearest_witness(table, sample)
        if witness is None:
            continue
        image_there, rival = witness
        change = image_there - image
        largest = float(np.abs(change).max()) or 1.0
        yield Picture(
            _png((image_there - low) / (high - low)), f"{name}: taken for {rival} at {distance:.3g}"
        )
        yield Picture(
            _png(0.5 + change / (2 * largest)), f"the change, {(high - low) / (2 * largest):.1f} times"
        )


def _nearest_witness(table: MarginTable, sample: Sample) -> tuple[np.ndarray, int] | None:
    """Of the search that came nearest, for a sample that had to be searched."""
    row = sample.row
    columns = [
        c
        for c in table.columns
        if c.norm == sample.norm
        and c.witness is not None
        and has_end(c, "upper")
        and 0 < c.distance[row] < np.inf
    ]
    if not columns:
        return None
    best = min(columns, key=lambda c: float(c.distance[row]))
    assert best.witness is not None
    return best.witness[row], int(best.rival[row])


def _is_image(inputs: np.ndarray) -> bool:
    shape = inputs.shape[1:]
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def _box(table: MarginTable) -> tuple[float, float]:
    """Black and white: the threat's box, else the values there are."""
    threat = table.provenance.threat
    assert table.input is not None
    ends = [
        float(end) if isinstance(end, int | float) else float(found(table.input))
        for end, found in ((threat.low, np.min), (threat.high, np.max))
    ]
    return ends[0], max(ends[1], ends[0] + 1e-12)


def _png(image: np.ndarray) -> str:
    """An image of values in [0, 1] as a PNG's data: URI."""
    from PIL import Image

    pixels = (np.clip(np.nan_to_num(image), 0, 1) * 255).round().astype(np.uint8)
    if pixels.ndim == 3:
        pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    step = -(-max(pixels.shape[:2]) // LARGEST)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

"""Train two small models on the digits, measure both, and write a report to look at."""

from pathlib import Path

from marginkit import Recipe, load_dataset, measure_file, save, train
from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.data.dataset import Source
from marginkit.report import html

digits = load_dataset("digits", Source(split="train"))
for loss in ("cross-entropy", "large-margin"):
    train(digits, Path(f"{loss}.pt"), loss=loss, recipe=Recipe(epochs=5))
    table, _ = measure_file(
        f"{loss}.pt", ["first_order", "nearest"], ["l2"], limit=100, witnesses=True, checks=0
    )
    save(table, f"{loss}.h5")

study = Study.of_files([Path("cross-entropy.h5"), Path("large-margin.h5")], Settings(ropes={"l2": 0.01}))
html.write(study, Path("report.html"))

(comparison,) = study.comparisons
for row in comparison.columns:
    print(f"{row.name}: {row.difference:+.3f} [{row.interval[0]:+.3f}, {row.interval[1]:+.3f}]")

"""Wrong labels, and the time to learn them: `python artifacts/paper/budget.py --data-root DIR` (resumable).

Cross-entropy and large margin (L2, all layers) with every learning rate and number of epochs, no choice made:
one line a run in budget.jsonl, and from them budget.md.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import pandas as pd
from figures import intervals
from run import SEEDS, Run, fit, mnist

from marginkit.training.evaluation import accuracy

HERE = Path(__file__).parent
LINES, TABLE = HERE / "budget.jsonl", HERE / "budget.md"
WAYS = ("cross-entropy", "l2, all")
NOISE = (0.2, 0.4)
RATES = (1e-3, 3e-3)
EPOCHS = (15, 40, 100)
PLAN = [
    dict(zip(("seed", "epochs", "learning_rate", "label_noise", "way"), each, strict=True))
    for each in product(SEEDS, EPOCHS, RATES, NOISE, WAYS)
]


def perform(line: dict[str, Any], root: Path) -> dict[str, Any]:
    """The line with its accuracy on the test images."""
    run = Run(line["way"], line["seed"], line["label_noise"])
    return line | {"accuracy": accuracy(fit(run, mnist(root, "train"), line).model(), mnist(root, "test"))}


def table(lines: list[dict[str, Any]]) -> str:
    """Accuracy by epochs, percent, with half the width of the 95 % t interval over the seeds."""
    seen = pd.DataFrame(lines).rename(columns={"accuracy": "value", "epochs": "level"})
    rate = seen["learning_rate"].map("{:g}".format)
    noise = (100 * seen["label_noise"]).map("{:.0f} %".format)
    found = intervals(seen.assign(figure=noise, way=seen["way"] + ", " + rate))
    text = ["| wrong labels | loss, learning rate | " + " | ".join(f"{n} epochs" for n in EPOCHS) + " |"]
    text.append("|---" * (2 + len(EPOCHS)) + "|")
    for (share, way), rows in found.groupby(["figure", "way"]):
        at = rows.set_index("level")
        cells = [f"{100 * at['mean'][n]:.1f} ± {50 * (at['high'][n] - at['low'][n]):.1f}" for n in EPOCHS]
        text.append(f"| {share} | {way} | " + " | ".join(cells) + " |")
    return "\n".join(["# Wrong labels against epochs", "", *text, ""])


@click.command()
@click.option("--data-root", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--processes", default=2, show_default=True, help="Runs at the same time, a core each.")
def main(data_root: Path, processes: int) -> None:
    """Does what is not done yet, and writes the table."""
    done = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    missing = [plan for plan in PLAN if not any(plan.items() <= line.items() for line in done)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for job in as_completed([pool.submit(perform, plan, data_root) for plan in missing]):
            done.append(job.result())
            with LINES.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            click.echo(json.dumps(done[-1]))
    TABLE.write_text(table(done))


if __name__ == "__main__":
    main()

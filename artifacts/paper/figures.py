"""Tables and figures from runs.jsonl: `python artifacts/paper/figures.py`.

Means over the seeds, with 95 % t intervals where there are at least two. Beside every attack stands
`nearest`: an attack on cross-entropy that fails where a search succeeds met a masked gradient, not a margin.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from scipy import stats

from marginkit.report.charts.spec import table, x
from marginkit.report.drawing import library, theme

HERE = Path(__file__).parent
AXES = {
    "label_noise": "share of wrong labels",
    "samples": "training samples",
    "sigma": "standard deviation of input noise",
    "eps": "Linf radius",
}
ATTACKS = {
    "fgsm": "FGSM",
    "ifgsm": "I-FGSM",
    "fgsm_transfer": "FGSM, transferred",
    "ifgsm_transfer": "I-FGSM, transferred",
}


def observations(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a number: figure, way, level, seed, value."""
    rows: list[tuple[str, str, float, int, float]] = []
    most = max(line["samples"] for line in lines)
    for line in lines:
        who = (line["way"], line["seed"])

        def add(figure: str, level: float, value: float, who: tuple[str, int] = who) -> None:
            rows.append((figure, who[0], level, who[1], value))

        if line["samples"] == most:
            add("label_noise", line["label_noise"], line["accuracy"])
        if line["label_noise"] == 0:
            add("samples", line["samples"], line["accuracy"])
        for sigma, value in line.get("input_noise", {}).items():
            add("sigma", float(sigma), value)
        for attack in (*ATTACKS, "nearest_linf"):
            for eps, value in line.get(attack, {}).items():
                add(attack, float(eps), value)
        for median in ("median_l2", "median_linf"):
            if median in line:
                add(median, 0.0, line[median])
    return pd.DataFrame(rows, columns=["figure", "way", "level", "seed", "value"])


def leads(seen: pd.DataFrame) -> pd.DataFrame:
    """How far each way is ahead of cross-entropy with the same seed, that is, the same wrong labels."""
    part = seen[seen["figure"] == "label_noise"]
    base = part["way"] == "cross-entropy"
    pairs = part[~base].merge(part[base], on=["level", "seed"], suffixes=("", "_base"))
    return pairs.assign(figure="lead", value=pairs["value"] - pairs["value_base"])[seen.columns]


def intervals(seen: pd.DataFrame) -> pd.DataFrame:
    """Mean, and the ends of its 95 % t interval, over the seeds."""
    grouped = seen.groupby(["figure", "way", "level"], sort=False)["value"]
    found = grouped.agg(["mean", "std", "count"]).reset_index()
    half = stats.t.ppf(0.975, (found["count"] - 1).clip(lower=1)) * found["std"] / found["count"] ** 0.5
    half = half.where(found["count"] > 1, 0.0)
    return found.assign(low=found["mean"] - half, high=found["mean"] + half)


def panel(found: pd.DataFrame, level: str, title: str) -> dict[str, Any]:
    """Accuracy against the level, one line a way, with its interval."""
    names = found["way"].drop_duplicates().tolist()
    colour = {"field": "way", "type": "nominal", "sort": None, "title": None,
              "scale": {"domain": names, "scheme": "tableau10"}}  # fmt: skip
    along = x("level", AXES[level], scale={"type": "log" if level == "samples" else "linear", "nice": False})
    accuracy = {"field": "mean", "type": "quantitative", "title": "accuracy", "axis": {"format": "%"},
                "scale": {"zero": False}}  # fmt: skip
    at = {"x": along, "color": colour}
    columns: Mapping[str, Any] = {key: found[key].tolist() for key in ("way", "level", "mean", "low", "high")}
    return {
        "title": title,
        "width": 340,
        "height": 260,
        "data": table(columns),
        "layer": [
            {"mark": {"type": "line", "point": True}, "encoding": {**at, "y": accuracy}},
            {
                "mark": {"type": "rule", "opacity": 0.5},
                "encoding": {**at, "y": {**accuracy, "field": "low"}, "y2": {"field": "high"}},
            },
        ],
    }


def draw(name: str, panels: list[dict[str, Any]]) -> None:
    """An SVG of panels side by side."""
    spec = json.dumps({"hconcat": panels, "config": {**theme("light"), "background": "white"}})
    (HERE / f"{name}.svg").write_text(library().vegalite_to_svg(spec))


def markdown(found: pd.DataFrame, figure: str, level: str, title: str) -> str:
    """One row a way, one column a level; percent, and half the interval's width."""
    part = found[found["figure"] == figure]
    levels = sorted(part["level"].unique())
    lines = [f"## {title}", "", f"| {AXES[level]} | " + " | ".join(f"{v:g}" for v in levels) + " |"]
    lines.append("|---" * (len(levels) + 1) + "|")
    for way, rows in part.groupby("way", sort=False):
        cells = rows.set_index("level")
        each = [_cell(cells.loc[v]) if v in cells.index else "" for v in levels]
        lines.append(f"| {way} | " + " | ".join(each) + " |")
    return "\n".join([*lines, ""])


def _cell(row: pd.Series[Any]) -> str:
    half = f" ± {50 * (row['high'] - row['low']):.1f}" if row["count"] > 1 else ""
    return f"{100 * row['mean']:.1f}{half}"


def distances(found: pd.DataFrame) -> str:
    """Medians of what `nearest` found."""
    wide = found[found["figure"].str.startswith("median")].pivot_table(
        index="way", columns="figure", values="mean", sort=False
    )
    rows = [f"| {way} | {row['median_l2']:.3f} | {row['median_linf']:.4f} |" for way, row in wide.iterrows()]
    return "\n".join(
        ["## Distance found by `nearest`, median", "", "| | L2 | Linf |", "|---|---|---|", *rows, ""]
    )


def main() -> None:
    """Writes tables.md and the SVGs."""
    lines = [json.loads(line) for line in (HERE / "runs.jsonl").read_text().splitlines()]
    seen = observations(lines)
    found = intervals(pd.concat([seen, leads(seen)]))
    seeds = seen.groupby("figure")["seed"].nunique()
    text = [
        "# The paper's regimes",
        "",
        f"{len(lines)} runs; seeds: {seeds.min()} to {seeds.max()} a figure; 95 % t intervals from two on.",
        "",
    ]
    for level, title in (
        ("label_noise", "Label noise"),
        ("samples", "Training samples"),
        ("sigma", "Input noise"),
    ):
        draw(level.replace("_", "-"), [panel(found[found["figure"] == level], level, title)])
        text.append(markdown(found, level, level, title))
    text.insert(5, markdown(found, "lead", "label_noise", "Ahead of cross-entropy under label noise, points"))
    honest = panel(found[found["figure"] == "nearest_linf"], "eps", "nearest")
    for attack, title in ATTACKS.items():
        draw(attack.replace("_", "-"), [panel(found[found["figure"] == attack], "eps", title), honest])
        text.append(markdown(found, attack, "eps", title))
    text += [markdown(found, "nearest_linf", "eps", "`nearest`"), distances(found)]
    (HERE / "tables.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()

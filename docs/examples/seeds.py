"""Is one way of training better than another? Three seeds of each say more than one."""

from pathlib import Path

from marginkit import Recipe, load_dataset, measure_file, train
from marginkit.comparison.groups import compare_groups
from marginkit.data.dataset import Source
from marginkit.report import group_sentences

digits = load_dataset("digits", Source(split="train"))
groups = {}
for loss in ("cross-entropy", "large-margin"):
    groups[loss] = {}
    for seed in range(3):
        model = Path(f"{loss}-{seed}.pt")
        recipe = Recipe(epochs=3, seed=seed)
        train(digits, model, architecture="mlp", loss=loss, recipe=recipe)
        groups[loss][str(model)] = measure_file(model, ["nearest"], ["l2"], limit=60, checks=0)[0]

(found,) = compare_groups(groups)
print(*group_sentences(found), sep="\n")

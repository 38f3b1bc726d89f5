"""Published intervals of Bosman et al., "Robustness Distributions in Neural Network Verification" (JAIR).

They stand in a public repository, ADA-research/NNV_JAIR_robustness_distributions, of which nothing is kept
here: whoever wants to audit them names the folder of a clone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from marginkit.data.dataset import Source
from marginkit.data.sources import load

FIGURES = "data/MNIST/FOMLAS/results_JAIR_fomlas.csv"
NETWORKS = "networks_onnx/MNIST/fomlas"
COLUMNS = {"image_id": "image", "epsilon_value": "published_proved", "smallest_sat_value": "published_found"}


@dataclass(frozen=True)
class Case:
    """One network with the images of a split.

    Attributes:
        network: the file's name without its ending.
        split: `train` or `test`, of MNIST.
    """

    network: str
    split: str

    def file(self, clone: Path) -> Path:
        """The network's file in a clone."""
        return clone / NETWORKS / f"{self.network}.onnx"

    def table(self, folder: Path) -> Path:
        """Where this audit's table stands; the witnesses are beside it."""
        return folder / f"{self.network}-{self.split}.csv"


def intervals(clone: Path, case: Case) -> pd.DataFrame:
    """For each image the largest radius proved and the smallest attacked, as published; NaN where none."""
    every = pd.read_csv(clone / FIGURES)
    mine = every[(every.network_path == f"{case.network}.onnx") & (every.split == case.split)]
    return mine[list(COLUMNS)].rename(columns=COLUMNS).sort_values("image").reset_index(drop=True)


def images(root: Path, split: str, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
    """MNIST's images [n, 1, 28, 28] in [0, 1], and their labels [n]."""
    found = load("mnist", Source(split=split, root=root))
    rows = numbers.tolist()
    return found.inputs(rows).float(), torch.from_numpy(found.labels[rows].astype(np.int64))

from marginkit.comparison.compare import compare
from marginkit.data.sources import DATASETS
from marginkit.data.sources import load as load_dataset
from marginkit.errors import MarginkitError
from marginkit.kinds import Kind, Status
from marginkit.losses import LOSSES
from marginkit.losses.adversarial import Adversarial
from marginkit.losses.certified import Certified
from marginkit.losses.certified_margin import CertifiedMargin
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.gradient_penalty import GradientPenalty
from marginkit.losses.hinge import Hinge
from marginkit.losses.large_margin import LargeMargin, large_margin
from marginkit.losses.lipschitz_margin import LipschitzMargin
from marginkit.losses.mma import MaxMargin
from marginkit.losses.trades import Trades
from marginkit.measurement.measure import measure, measure_file
from marginkit.measurement.tighten import tighten
from marginkit.methods import METHODS
from marginkit.methods.crown import Crown
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.exact import Exact
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.fixed_radius import BIM, FGSM, FixedPGD
from marginkit.methods.lipschitz import Lipschitz
from marginkit.methods.nearest import Nearest
from marginkit.methods.pgd import PGD
from marginkit.methods.smoothing import Smoothing
from marginkit.methods.torchattacks import TorchAttack
from marginkit.methods.verify import Verify
from marginkit.models.architectures import ARCHITECTURES
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.norms import L1, L2, LINF, NORMS
from marginkit.table.reading import read as load
from marginkit.table.reading import read as read_table
from marginkit.table.table import MarginTable
from marginkit.table.writing import write as save
from marginkit.table.writing import write as write_table
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe
from marginkit.types import Bracket, Estimate, Threat

__all__ = [
    "ARCHITECTURES",
    "BIM",
    "DATASETS",
    "FGSM",
    "L1",
    "L2",
    "LINF",
    "LOSSES",
    "METHODS",
    "NORMS",
    "PGD",
    "Adversarial",
    "Bracket",
    "Certified",
    "CertifiedMargin",
    "CrossEntropy",
    "Crown",
    "DeepFool",
    "Estimate",
    "Exact",
    "FirstOrder",
    "FixedPGD",
    "GradientPenalty",
    "Hinge",
    "Kind",
    "LargeMargin",
    "Lipschitz",
    "LipschitzMargin",
    "MarginTable",
    "MarginkitError",
    "MaxMargin",
    "Nearest",
    "Recipe",
    "Smoothing",
    "Status",
    "Threat",
    "TorchAttack",
    "Trades",
    "Verify",
    "compare",
    "large_margin",
    "load",
    "load_checkpoint",
    "load_dataset",
    "measure",
    "measure_file",
    "read_table",
    "save",
    "tighten",
    "train",
    "write_table",
]

"""The methods that answer how far a sample is from the decision boundary; one file each."""

from marginkit.margins.crown import Crown
from marginkit.margins.deepfool import DeepFool
from marginkit.margins.exact import Exact
from marginkit.margins.first_order import FirstOrder
from marginkit.margins.fixed_radius import BIM, FGSM, FixedPGD
from marginkit.margins.lipschitz import Lipschitz
from marginkit.margins.nearest import Nearest
from marginkit.margins.pgd import PGD
from marginkit.margins.smoothing import Smoothing
from marginkit.types import Method

METHODS: dict[str, type[Method]] = {
    "first_order": FirstOrder,
    "deepfool": DeepFool,
    "pgd": PGD,
    "nearest": Nearest,
    "fgsm": FGSM,
    "bim": BIM,
    "fixed_pgd": FixedPGD,
    "crown": Crown,
    "lipschitz": Lipschitz,
    "exact": Exact,
    "smoothing": Smoothing,
}

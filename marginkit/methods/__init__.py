"""The methods that answer how far a sample is from the decision boundary; one file each."""

from marginkit.methods.crown import Crown
from marginkit.methods.deepfool import DeepFool
from marginkit.methods.exact import Exact
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.fixed_radius import BIM, FGSM, FixedPGD
from marginkit.methods.lipschitz import Lipschitz
from marginkit.methods.nearest import Nearest
from marginkit.methods.pgd import PGD
from marginkit.methods.smoothing import Smoothing
from marginkit.methods.verify import Verify
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
    "verify": Verify,
    "smoothing": Smoothing,
}

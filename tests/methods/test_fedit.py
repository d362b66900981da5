"""FedIT is FedAvg over LoRA, with its options; `common/test_fedavg.py` holds it against the equations."""

from helpers.replies import build_method

from fedpeft.methods.common.rotation import FactorMean
from fedpeft.methods.fedit import FedIt


def test_it_adds_nothing_to_the_mean_of_factors():
    assert issubclass(FedIt, FactorMean)
    assert not {name for name in vars(FedIt) if not name.startswith("_")}


def test_without_options_the_server_takes_the_plain_mean_of_rank_8():
    options = build_method("fedit").options
    assert (options.proximal, options.server, options.adapter.r, options.adapter.alpha) == (0, "mean", 8, 16)

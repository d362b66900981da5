"""FedAvg, then local training: FedIT's rounds; every client deploys what it trained, which is always kept."""

from helpers.replies import build_method

from fedpeft.methods.common.rotation import FactorMean
from fedpeft.methods.fedavg_ft import FedAvgFt
from fedpeft.methods.fedit import FedIt


def test_its_rounds_are_fedits_and_its_clients_deploy_what_they_trained():
    assert issubclass(FedAvgFt, FactorMean)
    assert {name for name in vars(FedAvgFt) if not name.startswith("_")} == {"model_choices"}
    assert build_method("fedavg_ft").options == build_method("fedit").options
    assert (FedAvgFt.model_choices, FedIt.model_choices) == (("trained",), ("received", "trained"))

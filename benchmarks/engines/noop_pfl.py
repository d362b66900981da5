"""pfl-research's rounds without their training: `python noop_pfl.py '{"clients": 1000, "rounds": 9}'`."""

import json
import logging
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn


class Adapter(nn.Module):
    """As many tensors of the same shapes as the other side's: 128 KiB and a head."""

    def __init__(self) -> None:
        super().__init__()
        pairs = [nn.Parameter(torch.randn(shape)) for _ in range(4) for shape in ((128, 32), (32, 128))]
        self.tensors = nn.ParameterList([*pairs, nn.Parameter(torch.randn(2, 32)), nn.Parameter(torch.randn(2))])

    def loss(self) -> None: ...

    def metrics(self) -> None: ...


class NoStep(FederatedAveraging):
    """FedAvg whose local training is nothing, and which scores no client in the first round."""

    def get_next_central_contexts(self, *args: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*args)
        return contexts and tuple(replace(context, do_evaluation=False) for context in contexts), model, metrics

    def train_one_user(self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
        return model.get_model_difference(initial_model_state), Metrics()


class TimedOption(TrainingProcessCallback):
    """Keeps when each round ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def after_central_iteration(self, aggregate_metrics: Metrics, model: Any, **_: int) -> tuple[bool, Metrics]:
        self.ends.append(time.perf_counter())
        return False, Metrics()


def main(clients: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    module, timed = Adapter(), TimedOption()
    model = PyTorchModel(module, torch.optim.AdamW, torch.optim.SGD(module.parameters(), lr=1.0))
    row = (np.zeros(8),)
    users = FederatedDataset(lambda user: Dataset(row, user_id=user), MinimizeReuseUserSampler(list(range(clients))))
    NoStep().run(
        NNAlgorithmParams(
            central_num_iterations=rounds + 1,  # the first is not counted
            evaluation_frequency=rounds + 1,
            train_cohort_size=clients,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=1e-3, local_batch_size=8),
        callbacks=[timed],
        send_metrics_to_platform=False,
    )
    return {"round_seconds": np.diff(timed.ends).tolist()}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))

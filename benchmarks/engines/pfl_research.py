"""pfl-research: one process, torch's default threads, its own local training, aggregation and model update."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

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
from torch import Tensor, nn
from work import Rounds, Work, adamw, contest

from fedpeft.tasks.encode import Batch


class Module(nn.Module):
    """The adapted model as pfl wants it; remembers every step's loss."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.peft, self.work = work.model(), work
        self.losses: list[Tensor] = []

    def loss(self, **batch: Tensor) -> Tensor:
        self.work.first_step()
        loss = self.peft(**batch).loss
        self.losses.append(loss.detach().clone())  # pfl divides the loss in place
        return loss

    def metrics(self, **batch: Tensor) -> dict[str, Any]:
        return {}


class User(Dataset):
    """One client in one round."""

    def __init__(self, work: Work, client: str, round_: int) -> None:
        super().__init__(raw_data=(work.rows[client],), user_id=client)
        self.draw = partial(work.make_batches, client, round_)

    def __len__(self) -> int:
        return len(self.raw_data[0])

    def iter(self, batch_size: int | None) -> Iterator[Batch]:
        return self.draw()


class NoEvaluation(FederatedAveraging):
    """pfl scores every client before and after its training in the first round; nobody else here does."""

    def get_next_central_contexts(self, *args: Any) -> Any:
        contexts, model, metrics = super().get_next_central_contexts(*args)
        return contexts and tuple(replace(context, do_evaluation=False) for context in contexts), model, metrics


class TimedOption(TrainingProcessCallback):
    """Tells when a round begins and ends."""

    def __init__(self, rounds: Rounds, module: Module) -> None:
        self.rounds, self.module = rounds, module

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.rounds.begin()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, **_: int
    ) -> tuple[bool, Metrics]:
        self.rounds.end(torch.stack(self.module.losses).tolist())
        self.module.losses.clear()
        self.rounds.begin()
        return False, Metrics()


def run(work: Work, rounds: Rounds) -> None:
    settings, module = work.settings, Module(work)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    model = PyTorchModel(
        module,
        local_optimizer_create=lambda _, lr: adamw(module.peft, lr),
        central_optimizer=torch.optim.SGD(trained, lr=1.0),  # the mean of the updates, as it is
    )
    clients = sorted(work.rows)
    users = FederatedDataset(
        lambda client: User(work, client, len(rounds.seconds) + 1), MinimizeReuseUserSampler(clients)
    )
    NoEvaluation().run(
        NNAlgorithmParams(
            central_num_iterations=settings.rounds,
            evaluation_frequency=settings.rounds,
            train_cohort_size=len(clients),
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=users, val_data=users),
        model,
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=settings.lr, local_batch_size=settings.batch),
        callbacks=[TimedOption(rounds, module)],
    )


if __name__ == "__main__":
    contest(run, ("pfl",))

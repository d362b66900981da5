"""Flower's simulation: Ray actors with one core each, FedAvg over PEFT's state dict, a model made for each message."""

from collections.abc import Iterable
from typing import Any

from flower_client import app
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from peft import get_peft_model_state_dict
from work import Rounds, Work, contest


class TimedOption(FedAvg):
    """FedAvg that tells when a round begins and ends."""

    def __init__(self, rounds: Rounds, clients: int) -> None:
        super().__init__(min_train_nodes=clients, min_available_nodes=clients, fraction_evaluate=0.0)
        self.rounds = rounds

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.rounds.begin()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)
        assert metrics is not None
        loss: Any = metrics["loss"]
        self.rounds.end([float(loss)])
        return arrays, metrics


def run(work: Work, rounds: Rounds, keep: bool = False) -> None:
    settings = work.settings
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = TimedOption(rounds, settings.clients)
        config = ConfigRecord({"work": str(work.folder), "keep": keep})
        arrays = ArrayRecord(get_peft_model_state_dict(work.model()))
        strategy.start(grid, arrays, num_rounds=settings.rounds, train_config=config)

    resources: Any = {"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": settings.workers}}
    run_simulation(server, app, num_supernodes=settings.clients, backend_config=resources)


if __name__ == "__main__":
    contest(run, ("flwr", "ray"))

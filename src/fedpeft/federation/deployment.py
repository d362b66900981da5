"""Which of its candidate models each client deploys: one rule for every method and engine.

At the end of a run a client has two candidates: `received`, what the server's message gives it now, and `trained`, what
its own last local training left, before that training was aggregated. By `deploy: validation` each client takes the one
with the best score on its own validation rows, of equal scores the one of lower loss, of equal losses `received`. So a
global method followed by local training competes with a personalised one. The test rows play no part in the choice.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:  # both name their fields by what is below
    from fedpeft.federation.method import Method
    from fedpeft.federation.training_config import TrainingConfig

ModelChoice = Literal["received", "trained"]
DeployRule = Literal["received", "trained", "validation"]
Scores = Mapping[str, float]  # by metric


def list_model_choices(training: "TrainingConfig", method: "Method[Any]") -> tuple[ModelChoice, ...]:
    """The candidates that a client has at the end of a run: those of the method, the trained one only where it is kept
    or where the method knows no other."""
    kept = get_args(ModelChoice) if training.before_aggregation else ("received",)
    return tuple(choice for choice in method.model_choices if choice in kept) or method.model_choices


def choose_models(
    rule: DeployRule, clients: Sequence[str], validation: Mapping[ModelChoice, Mapping[str, Scores]], metric: str
) -> dict[str, ModelChoice]:
    """The candidate that each client deploys, by client id: the rule's, where it names one of them, else its best.

    `validation` holds the candidates' scores on each client's own validation rows, by candidate, then by client; of
    `metric` more is better. A score that is no number is worse than any other.
    """
    if rule != "validation" and rule in validation:
        return dict.fromkeys(clients, rule)
    return {
        client: _choose_best({choice: of[client] for choice, of in validation.items()}, metric) for client in clients
    }


def _choose_best(scores: Mapping[ModelChoice, Scores], metric: str) -> ModelChoice:
    def rank(choice: ModelChoice) -> tuple[float, float, bool]:
        own = scores[choice]
        return _or_least(own[metric]), _or_least(-own["loss"]), choice == "received"

    return max(scores, key=rank)


def _or_least(value: float) -> float:
    return value if value == value else float("-inf")


def select_deployed(
    choices: Mapping[str, ModelChoice], scores: Mapping[ModelChoice, Mapping[str, dict[str, float]]]
) -> dict[str, dict[str, float]]:
    """The scores of the model that each client deploys, by client, from those by candidate and client."""
    return {client: scores[choice][client] for client, choice in choices.items()}


def count_choices(choices: Mapping[str, ModelChoice]) -> dict[str, int]:
    """How many clients deploy each candidate."""
    return {choice: list(choices.values()).count(choice) for choice in get_args(ModelChoice)}

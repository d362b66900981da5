"""What a run returns to a program."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedpeft.api.inputs import Inputs

if TYPE_CHECKING:  # 0.3 seconds, for those who look at tables
    import pandas as pd


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, and `record`, all that its result.json holds. Scores are fractions in 0..1."""

    folder: Path
    record: dict[str, Any] = field(repr=False)
    inputs: Inputs = field(default_factory=Inputs, repr=False)

    @property
    def metric(self) -> str:
        """The name of the score."""
        return str(self.record["metric"])

    @property
    def score(self) -> float:
        """The test score of the models that clients deploy, each client weighted alike."""
        return float(self.record["test"]["deployed"]["by_client"])

    @property
    def clients(self) -> list[str]:
        """The ids of the clients."""
        return list(self.record["clients"])

    def by_client(self) -> "pd.DataFrame":
        """The test scores by client (index) and model (columns: received, trained), of the run's metric."""
        import pandas as pd

        scores = self.record["test_by_client"]
        columns = {
            model: {client: own[self.metric] for client, own in of_model.items() if self.metric in own}
            for model, of_model in scores.items()
        }
        return pd.DataFrame(columns).rename_axis("client")

    def adapter(self, client: str) -> Path:
        """The folder of a client's exported adapter, for PEFT. Raises UserError for a client that has none."""
        from fedpeft.runs.export import get_adapter_folder, read_card

        read_card(self.folder, client)
        return get_adapter_folder(self.folder, client)

    def join(self, client: str, data: Any, epochs: int = 1) -> dict[str, Any]:
        """Gives a client that comes after training an adapter of its own; as `fedpeft.join`."""
        from fedpeft.api.functions import join

        model, tokenizer = self.inputs.model, self.inputs.tokenizer
        return join(self.folder, client, data, epochs=epochs, model=model, tokenizer=tokenizer)

    def predict(self, client: str, texts: list[str], pairs: list[str] | None = None) -> list[dict[str, Any]]:
        """What the client's exported model says of each text; as `fedpeft.predict`."""
        from fedpeft.api.functions import predict

        return predict(self.folder, client, texts, pairs, model=self.inputs.model, tokenizer=self.inputs.tokenizer)

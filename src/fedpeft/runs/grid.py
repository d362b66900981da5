"""The runs of a comparison: each in a folder of its own, `<label>/lr<rate>-seed<seed>`, none of them twice.

A finished run is read, a broken-off one resumed. One of other settings, data or model is never mixed in: it is refused,
before any other has trained. Where a method gives a list of learning rates, or `lr: auto`, which finds its own until
the best lies between worse ones, as many for every method, each is tried with the first seed and the
best validation score of the deployed models wins, of equal ones that of the least validation loss; the test split plays
no part in it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedpeft.acceleration import Acceleration, make_accelerations
from fedpeft.analysis.rate_search import Score, convert_to_rate, find_edge, propose_position
from fedpeft.callbacks import RunCallback
from fedpeft.config import Experiment
from fedpeft.errors import NoQuorum, UserError
from fedpeft.runs.compare_results import Results
from fedpeft.runs.fingerprint import take_fingerprint
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.run_files import get_run_path
from fedpeft.runs.runner import resume, start
from fedpeft.runs.spec import RunSpec
from fedpeft.tasks.load import load_task


class RunGrid:
    """Methods, their learning rates and seeds; `rates` by label, None for the one that the method has.

    `keep`: every run exports its clients' adapters and keeps its checkpoint.
    """

    def __init__(
        self,
        experiment: Experiment,
        rates: Mapping[str, Sequence[float | None]],
        seeds: Sequence[int],
        base: Path,
        keep: bool = False,
    ) -> None:
        self.experiment, self.rates, self.seeds, self.base, self.keep = experiment, rates, seeds, base, keep
        self.tuned: dict[str, dict[str, float | None]] = {}  # validation scores by rate, None where training failed
        self.edges: dict[str, str] = {}  # of methods whose best rate is the lowest or the highest tried: which

    def require_same_runs(self, out: Path) -> None:
        """Raises UserError for a run under `out` of other settings, data or model."""
        for seed in self.seeds:
            specs = [self._make_spec(label, seed, lr) for label, rates in self.rates.items() for lr in rates]
            present = [(spec, folder) for spec in specs if (folder := find_folder(spec, out)).has("experiment.yaml")]
            for spec, folder in present:
                _require_same_settings(spec, folder)
            if present:
                data = load_task(self.experiment.task, self.experiment.partition, seed, self.base)
                now = take_fingerprint(data, self.experiment.model)
                for _, folder in present:
                    folder.require_fingerprint(now)

    def run(self, out: Path, callback: RunCallback) -> Results:
        """The results of every method with its best rate. Raises NoQuorum where a method fails at every rate."""
        total = sum(self._count_trials(label) - 1 + len(self.seeds) for label in self.rates)
        begun = 0
        done: dict[tuple[str, int, float | None], dict[str, Any]] = {}
        shared: dict[int, tuple[Acceleration, ...]] = {}  # of the seed under way

        def get_result(label: str, seed: int, lr: float | None) -> dict[str, Any]:
            nonlocal begun
            key = (label, seed, lr)
            if key not in done:
                begun += 1
                if seed not in shared:
                    shared.clear()  # another seed divides the examples otherwise: nothing that a cache keeps is found
                    shared[seed] = make_accelerations(self.experiment.get_requested_accelerations())
                spec = self._make_spec(*key)
                done[key] = get_or_run(spec, out, callback, shared[seed], self.keep, (begun, total))
            return done[key]

        best = {label: self._tune(label, get_result, callback) for label in self.rates}
        results: Results = {label: [] for label in self.rates}
        for seed in self.seeds:  # seed by seed, so that a table broken off still compares like with like
            for label in self.rates:
                results[label].append(get_result(label, seed, best[label]))
        return results

    def _tune(
        self, label: str, get_result: Callable[[str, int, float | None], dict[str, Any]], callback: RunCallback
    ) -> float | None:
        """The best of a method's rates."""
        first = self.rates[label][0]
        if first is None or self._count_trials(label) == 1:
            return first

        def try_rate(lr: float) -> Score | None:
            try:
                return _read_validation(get_result(label, self.seeds[0], lr))
            except NoQuorum as error:
                callback.on_note(f"{label}: the learning rate {lr:g} is out: {error}")
                return None

        if self.experiment.is_rate_searched(label):
            scores = self._search(first, try_rate)
        else:
            scores = {lr: try_rate(lr) for lr in self.rates[label] if lr is not None}
        known = {lr: score for lr, score in scores.items() if score is not None}
        if not known:
            tried = [float(f"{lr:g}") for lr in scores]
            raise NoQuorum(f"methods.{label}.lr: training failed at every rate; give lower ones, received {tried}")
        self.tuned[label] = {f"{lr:g}": score[0] if score else None for lr, score in scores.items()}
        best = max(known, key=known.__getitem__)
        if edge := find_edge(scores, best):
            self.edges[label] = edge
            callback.on_note(
                f"{label}: the best learning rate, {best:g}, is the {edge} of the {len(scores)} tried, so that a "
                f"{'higher' if edge == 'highest' else 'lower'} one may be better; {self._advise(label)}"
            )
        return best

    def _search(self, start: float, try_rate: Callable[[float], Score | None]) -> dict[float, Score | None]:
        """The scores of `tuning.trials` rates, ascending, from the start on."""
        tuning, scores = self.experiment.tuning, dict[float, Score | None]()
        for _ in range(tuning.trials):
            position = propose_position(scores)
            scores[position] = try_rate(convert_to_rate(start, tuning.factor, position))
        return {convert_to_rate(start, tuning.factor, position): scores[position] for position in sorted(scores)}

    def _advise(self, label: str) -> str:
        if self.experiment.is_rate_searched(label):
            return "raise tuning.trials, which keeps the runs that are there, or give a start nearer to it"
        return "extend the list, or say lr: auto"

    def _count_trials(self, label: str) -> int:
        return self.experiment.tuning.trials if self.experiment.is_rate_searched(label) else len(self.rates[label])

    def _make_spec(self, label: str, seed: int, lr: float | None) -> RunSpec:
        return RunSpec(self.experiment, label, seed, lr, self.base)


def get_or_run(
    spec: RunSpec,
    out: Path,
    callback: RunCallback,
    accelerations: Sequence[Acceleration] | None = None,
    keep: bool = False,
    position: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """The result of one run under `out`: read, resumed or run; `keep` exports adapters and keeps the checkpoint.

    Raises UserError when other settings are there.
    """
    folder = find_folder(spec, out)
    if folder.has("experiment.yaml"):
        _require_same_settings(spec, folder)
        if keep and folder.has("result.json") and not folder.exported_clients:
            callback.on_note(
                f"{folder.path} was finished without adapters, which cannot be made afterwards; --fresh can"
            )
        return resume(folder.path, callback, export=keep, accelerations=accelerations, position=position)
    return start(spec, folder.path, callback, export=keep, accelerations=accelerations, position=position)


def find_folder(spec: RunSpec, out: Path) -> RunFolder:
    """Where a run of a comparison is or will be."""
    rate = spec.make_method().options.lr
    return RunFolder(get_run_path(out, spec.label, rate, spec.seed))


def _require_same_settings(spec: RunSpec, folder: RunFolder) -> None:
    difference = RunSpec.read(folder).find_difference(spec)
    if difference:
        raise UserError(f"{folder.path} holds a run of other settings ({difference}); give another --out or remove it")


def _read_validation(result: dict[str, Any]) -> tuple[float, float]:
    if "deployment" in result:
        scores = result["deployment"]["validation"]["deployed"]
    else:  # of an earlier version
        scores = result["validation"][str(result["rounds"])]
    return scores["by_client"], -scores["loss"]

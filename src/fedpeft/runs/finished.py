"""What a finished run or comparison holds, as tables take it: the files may be damaged, or a stranger's."""

from pathlib import Path
from typing import Any

from pydantic import Field

from fedpeft.errors import UserError
from fedpeft.runs.compare_results import FILE, compare_results
from fedpeft.runs.files import Files
from fedpeft.runs.run_files import RunFiles
from fedpeft.runs.stored import StoredModel, StoredResult, Text, upgrade_result


class StoredTarget(StoredModel):
    """The score whose cost an experiment asks for."""

    target: float | None = None


class StoredRuns(StoredModel):
    """The fields of compare.json from which its tables are made."""

    name: Text
    scenario: Text | None = None
    seeds: list[int]
    experiment: StoredTarget = Field(default_factory=lambda: StoredTarget())
    runs: dict[Text, list[StoredResult]] = Field(min_length=1)


def read_finished(path: Path) -> dict[str, Any]:
    """The comparison in a folder or a compare.json, or a run in its folder as a comparison of one method.

    Its rows and differences are computed from the results. Raises UserError where there is none, or it is not finished
    or damaged.
    """
    folder = path.parent if path.is_file() else path
    files = Files(folder)
    name = path.name if path.is_file() else FILE
    if files.has(name):
        contents = files.read_json(name, StoredRuns, "give a folder that `fedpeft run` or `fedpeft compare` wrote")
        runs = {label: [upgrade_result(result) for result in results] for label, results in contents["runs"].items()}
        seeds, scenario = contents["seeds"], contents.get("scenario")
        target = contents.get("experiment", {}).get("target")
        return _make_comparison(contents["name"], seeds, scenario, {k: v for k, v in runs.items() if v}, target)
    if files.has("experiment.yaml"):
        result = RunFiles(folder).require_result()
        return _make_comparison(folder.resolve().name, [result["seed"]], None, {result["label"]: [result]})
    if any(folder.glob("*/lr*-seed*/experiment.yaml")):
        raise UserError(f"the comparison at {path} is not finished; the same `fedpeft compare` command goes on with it")
    raise UserError(f"no run and no comparison at {path}; `fedpeft ls` lists the runs here")


def _make_comparison(
    name: str,
    seeds: list[int],
    scenario: str | None,
    runs: dict[str, list[dict[str, Any]]],
    target: float | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "scenario": scenario,
        "seeds": seeds,
        "experiment": {"target": target},
        **compare_results(runs, target),
        "runs": runs,
    }


def average_client_scores(results: list[dict[str, Any]]) -> dict[str, float]:
    """Each client's test score with the model that it deploys, over the seeds; empty for results that do not tell."""
    values: dict[str, list[float]] = {}
    for result in results:
        for client, scores in result.get("test_by_client", {}).get("deployed", {}).items():
            if scores.get(result["metric"]) is not None:
                values.setdefault(client, []).append(scores[result["metric"]])
    return {client: sum(own) / len(own) for client, own in sorted(values.items())}

"""Dry steps at a few points of one backbone, the models fitted to them, and the file that keeps both."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedpeft.budgets.measure import Measured, Workload, measure
from fedpeft.budgets.memory import MemoryModel, Point, fit_memory
from fedpeft.budgets.shape import DEFAULT_RANK, ModelShape
from fedpeft.budgets.step_time import TimeModel, fit_seconds
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

Progress = Callable[[str, int, int], None]  # what comes next, how many are done, of how many
LIBRARIES = ("torch", "transformers", "peft")


@dataclass(frozen=True)
class Probe:
    """What was measured of one workload, and the models fitted to it."""

    workload: Workload
    shape: ModelShape
    points: tuple[Point, ...]
    memory: MemoryModel
    time: TimeModel

    def errors(self) -> list[float]:
        """Predicted over measured peak, margin included, by point of the fit."""
        memory, shape = self.memory, self.shape
        return [
            memory.predict(shape, p.length, p.rows, p.resources) / max(p.training_mib, memory.loading_mib)
            for p in self.points
        ]


def probe(workload: Workload, progress: Progress) -> Probe:
    """Measures some six points, minutes for a large backbone. Raises UserError as `measure` does."""
    first = ClientResources(DEFAULT_RANK)
    progress("the whole configuration", 0, len(_plan(workload, 1)))
    whole = measure(workload, first)
    plan = _plan(workload, whole.shape.blocks)
    found = [(workload.batch_size, workload.max_length, first, whole)]
    for done, (rows, length, resources) in enumerate(plan[1:], 1):
        layers = len(resources.layers or whole.shape.top(whole.shape.blocks))
        what = f"{rows} x {length} tokens, {layers} layers{', checkpointing' * resources.checkpointing}"
        progress(what, done, len(plan))
        part = Workload(**asdict(workload) | {"batch_size": rows, "max_length": length})
        found.append((rows, length, resources, measure(part, resources)))
    return fitted(workload, found)


def _plan(workload: Workload, blocks: int) -> list[tuple[int, int, ClientResources]]:
    """(rows, tokens, resources) of each point: every lever that moves memory is moved once, and all of them at once."""
    rows, length = workload.batch_size, workload.max_length
    half, one = (tuple(range(blocks - n, blocks)) for n in (max(1, blocks // 2), 1))
    whole = ClientResources(DEFAULT_RANK)
    return [
        (rows, length, whole),
        (rows, length, ClientResources(DEFAULT_RANK, half)),
        (rows, max(2, length // 2), whole),
        (max(1, rows // 4), length, whole),
        (rows, length, ClientResources(DEFAULT_RANK, checkpointing=True)),
        (max(1, rows // 2), max(2, length // 4), ClientResources(DEFAULT_RANK, one)),
    ]


def fitted(workload: Workload, found: list[tuple[int, int, ClientResources, Measured]]) -> Probe:
    """The models for measured (rows, tokens, resources, figures)."""
    shape = found[0][3].shape
    points = tuple(Point(length, rows, a, m.training_mib, m.step_seconds) for rows, length, a, m in found)
    loading, libraries = (max(getattr(m, f) for *_, m in found) for f in ("loading_mib", "libraries_mib"))
    memory = fit_memory(shape, points, loading, libraries)
    return Probe(workload, shape, points, memory, fit_seconds(shape, points))


# ---- the file


class ProbeFile:
    """A JSON file of probes and verified dry steps; it may hold several backbones."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {}
        if path.is_file():
            try:
                self.content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is not a file of probes ({error}); name another, or remove it") from error

    def get(self, workload: Workload) -> Probe | None:
        """The probe of exactly this workload with the libraries of now, if the file has it."""
        plain = self.content.get(_key(workload), {}).get("probe")
        if plain is None:
            return None
        points = tuple(Point(**p | {"resources": _read_resources(p["resources"])}) for p in plain["points"])
        shape, memory, time = plain["shape"], plain["memory"], plain["time"]
        return Probe(workload, ModelShape.of(shape), points, MemoryModel(**memory), TimeModel(**time))

    def put(self, found: Probe) -> None:
        """Keeps a probe, and forgets dry steps verified before it."""
        plain = {key: value for key, value in asdict(found).items() if key != "workload"}
        self.content[_key(found.workload)] = {"probe": plain, "verified": {}}
        self._write()

    def verified(self, workload: Workload, resources: ClientResources) -> Measured:
        """The dry step of a configuration: from the file, or measured now and kept."""
        known = self.content[_key(workload)]["verified"]
        name = json.dumps(asdict(resources))
        if name not in known:
            known[name] = measure(workload, resources).as_dict()
            self._write()
        return Measured.of(known[name])

    def _write(self) -> None:
        from fedpeft.federation.checkpoint import write_atomically

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())


def _key(workload: Workload) -> str:
    return json.dumps(asdict(workload) | {library: version(library) for library in LIBRARIES}, sort_keys=True)


def _read_resources(plain: dict[str, Any]) -> ClientResources:
    return ClientResources(**plain | {"layers": plain["layers"] and tuple(plain["layers"])})

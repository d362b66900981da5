"""The file that keeps probes and verified dry steps, so that nothing is measured twice with the same libraries."""

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fedpeft.atomic_files import write_atomically
from fedpeft.budgets.measure import ANSWER, Measured, Workload, measure
from fedpeft.budgets.probe import Probe, Progress, ignore_progress, probe
from fedpeft.errors import UserError
from fedpeft.resources import ClientResources

LIBRARIES = ("torch", "transformers", "peft")  # a new version of one is measured anew
T = TypeVar("T")

_CONTENT = TypeAdapter(dict[str, dict[str, dict[str, Any]]])  # by workload: "probe", and "verified" by resources
_PROBE = TypeAdapter(Probe)


class ProbeFile:
    """A JSON file of probes and verified dry steps; it may hold several workloads.

    What another version of fedpeft wrote is read where it says enough, and measured anew where it does not. Raises
    UserError for a file that cannot be read or is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, dict[str, dict[str, Any]]] = {}
        if path.is_file():
            try:
                self.content = _CONTENT.validate_json(path.read_bytes())
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}); name another file") from error
            except ValidationError as error:
                reason = error.errors()[0]["msg"]
                raise UserError(f"{path} is not a file of probes ({reason}); name another, or remove it") from error

    def get_or_measure(self, workload: Workload, progress: Progress = ignore_progress) -> Probe:
        """The probe of a workload: from the file, or measured now and kept there. Raises UserError as `probe` does."""
        known = self.get(workload)
        if known is None:
            known = probe(workload, progress)
            self.put(known)
        return known

    def get(self, workload: Workload) -> Probe | None:
        """The probe of exactly this workload with the installed libraries, or None."""
        values = self.content.get(_make_key(workload), {}).get("probe")
        return None if values is None else _read(_PROBE, values | {"workload": workload})

    def put(self, probe: Probe) -> None:
        """Keeps a probe, and forgets the dry steps verified before it."""
        values = _PROBE.dump_python(probe, mode="json", exclude={"workload"})  # the key says it
        self.content[_make_key(probe.workload)] = {"probe": values, "verified": {}}
        self._write()

    def measure_once(self, workload: Workload, resources: ClientResources) -> Measured:
        """The dry step of one configuration: from the file, or measured now and kept there."""
        verified = self.content.setdefault(_make_key(workload), {}).setdefault("verified", {})
        name = json.dumps(asdict(resources))
        known = _read(ANSWER, verified.get(name))
        if known is None:
            known = measure(workload, resources)
            verified[name] = ANSWER.dump_python(known, mode="json")
            self._write()
        return known

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.content, indent=1).encode())


def _read(adapter: TypeAdapter[T], values: Any) -> T | None:
    """What the values of a file say, or None where they do not say it (another version wrote them)."""
    try:
        return adapter.validate_python(values)
    except ValidationError:
        return None


def _make_key(workload: Workload) -> str:
    return json.dumps(asdict(workload) | {library: version(library) for library in LIBRARIES}, sort_keys=True)

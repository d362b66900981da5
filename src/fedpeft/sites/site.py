"""What a site answers: its data, model and states in this process, an experiment's settings in each request."""

import json
import logging
from pathlib import Path
from typing import Any

from fedpeft.budgets.levels import make_resources
from fedpeft.budgets.resolve_budgets import get_probe_path, resolve_budgets
from fedpeft.config import Experiment, ResourceLevel
from fedpeft.engines.flower.exchange import pack_resources, unpack_resources
from fedpeft.engines.flower.protocol import pack, unpack
from fedpeft.engines.flower.responder import serve_request
from fedpeft.engines.local import LocalEngine
from fedpeft.errors import UserError
from fedpeft.federation.deployment import list_model_choices
from fedpeft.federation.message import Message, decode
from fedpeft.resources import ClientResources
from fedpeft.runs.build import RunContext, assemble, load_model
from fedpeft.runs.export import make_card
from fedpeft.runs.folder import RunFolder
from fedpeft.runs.model_card import write_model_cards
from fedpeft.runs.remote import require_labels
from fedpeft.runs.spec import RunSpec
from fedpeft.sites.config import SiteConfig
from fedpeft.sites.states import SiteStates
from fedpeft.tasks.examples import FederatedData
from fedpeft.tasks.load import load_client

log = logging.getLogger(__name__)


class Site:
    """One client at home. Keeps the last run's model and data in memory, so that only its first message is slow."""

    def __init__(self, config: SiteConfig) -> None:
        self.config = config
        self._key = ""  # of the run and the resources that `_context` is of
        self._context: RunContext | None = None

    def answer(self, request: bytes) -> bytes:
        """The answer to one request; one that cannot be served is answered with the reason, in one line."""
        try:
            header, parts = unpack(request)
            return self._serve(header, parts)
        except (UserError, ValueError, KeyError, TypeError, IndexError, OSError) as error:  # a peer's bytes
            log.warning("a request failed: %s", error)
            return pack({"error": f"site {self.config.id!r}: {error}"})

    def _serve(self, header: dict[str, Any], parts: list[bytes]) -> bytes:
        if header["ask"] == "hello":
            return self._introduce(header)
        if header["client"] != self.config.id:
            raise UserError(f"this is site {self.config.id!r}, the request is for {str(header['client'])[:60]!r}")
        engine = self._get_context(header["settings"], unpack_resources(header["resources"])).engine
        assert isinstance(engine, LocalEngine)
        message = decode(parts[0])
        states = SiteStates(Path(self.config.folder), str(header["run"]), self.config.id)
        state = states.load(_require_round(header["base"]))
        if header["ask"] == "export":
            engine.restore(message.round, {self.config.id: vars(state)})
            return self._export(header, message)
        response = serve_request(engine, header, message, state)
        if response.state is not None:
            states.save(header["base"], message.round, response.state)  # it stays here
        return pack(response.header, response.parts)

    def _introduce(self, header: dict[str, Any]) -> bytes:
        """What the server may know: the id, the number of training examples, and what this site can carry."""
        experiment = self._read_spec(header["settings"]).experiment
        resources = None
        if self.config.memory_mib is not None:
            resources = self._fit_resources(experiment)
        context = self._get_context(header["settings"], resources or ClientResources())
        (client,) = context.clients
        own = None if resources is None else pack_resources(resources)
        return pack({"client": self.config.id, "examples": client.spec.examples, "resources": own})

    def _fit_resources(self, experiment: Experiment) -> ClientResources:
        level = ResourceLevel(memory_mib=self.config.memory_mib)
        fitted = resolve_budgets(experiment.model_copy(update={"resources": [level]}), log.info, get_probe_path())
        backbone, _ = load_model(experiment.model, experiment.task, len(require_labels(experiment.task)), 0)
        return make_resources(fitted.resources[0], backbone)

    def _read_spec(self, settings: dict[str, Any]) -> RunSpec:
        """The run as the server says it, but for what is this site's own. Raises UserError."""
        fields = json.loads(json.dumps(settings))
        fields["base"] = "/"
        fields["experiment"] |= {"engine": "local", "workers": 1, "prefix_cache": None}  # which names a folder
        spec = RunSpec.parse(fields, "the server's settings")
        model = spec.experiment.model
        if self.config.model is not None:
            model.name = self.config.model
        if self.config.device is not None:
            model.device = self.config.device
        return spec

    def _get_context(self, settings: dict[str, Any], resources: ClientResources) -> RunContext:
        key = json.dumps([settings, pack_resources(resources)], sort_keys=True)
        if self._context is None or self._key != key:
            self._close()
            self._context = self._build(self._read_spec(settings), resources)
            self._key = key
        return self._context

    def _build(self, spec: RunSpec, resources: ClientResources) -> RunContext:
        experiment, labels = spec.experiment, require_labels(spec.experiment.task)
        source = Path(self.config.source)
        if not source.exists():
            raise UserError(f"source: no such file or folder: {source}")
        own = load_client(self.config.id, source, experiment.task, experiment.partition, labels, spec.seed)
        backbone = load_model(experiment.model, experiment.task, len(labels), spec.seed)
        data = FederatedData((own,), tuple(labels), ())
        given = {self.config.id: resources}
        return assemble(experiment, spec.make_method(), spec.seed, data, backbone, resources=given)

    def _export(self, header: dict[str, Any], message: Message) -> bytes:
        """Writes the adapter that this client deploys, with its model card: `<folder>/<run>/clients/<id>/adapter`."""
        spec, context = self._read_spec(header["settings"]), self._context
        assert context is not None
        engine, own, choice = context.engine, self.config.id, header["model"]
        card = make_card(spec.experiment, require_labels(spec.experiment.task))
        folder = Path(self.config.folder) / str(header["run"])
        folder.mkdir(parents=True, exist_ok=True)
        engine.export([message], folder / "clients", card, {own: choice})
        scores = {  # of tensors that were scored already, so that they are known
            split: {
                str(model): engine.evaluate([message], split, model)[own]
                for model in list_model_choices(spec.experiment.training, spec.make_method())
            }
            for split in ("validation", "test")
        }
        write_model_cards(RunFolder(folder), spec, context, {own: choice}, {own: scores}, others=None)
        log.info("adapter written to %s", folder / "clients" / own / "adapter")
        return pack({"scores": {}})

    def _close(self) -> None:
        if self._context is not None:
            self._context.engine.close()
            self._context = None


def _require_round(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 10**9:
        raise UserError(f"base: expected a round, received {str(value)[:40]!r}")
    return value

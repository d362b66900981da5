"""fedpeft: federated fine-tuning of pre-trained language models for clients that differ.

    import fedpeft

    result = fedpeft.run("experiment.yaml", method="fedreft")
    table = fedpeft.compare("experiment.yaml", ["fedreft", "fedit", "local"], seeds=3)

What `__all__` lists is the public API; everything else may change. Names are imported when they are first used, so that
`import fedpeft` takes milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedpeft import aggregation
    from fedpeft.adapters.lora.options import LoraOptions
    from fedpeft.adapters.reft.options import ReftOptions
    from fedpeft.api.functions import compare, join, predict, resume, run
    from fedpeft.api.reading import show, table
    from fedpeft.api.result import RunResult
    from fedpeft.callbacks.base import RunCallback, RunInfo
    from fedpeft.config.experiment import Experiment
    from fedpeft.display.progress import ProgressDisplay
    from fedpeft.engines.base import Outcome
    from fedpeft.errors import UserError
    from fedpeft.federation.client import Client, ClientSpec
    from fedpeft.federation.message import Message, Reply, Tensors
    from fedpeft.federation.method import FederationInfo, Method, MethodOptions, example_weights
    from fedpeft.federation.record import RoundRecord
    from fedpeft.methods import register_method
    from fedpeft.tasks.own_metrics import register_metric

__version__ = "0.1.0"

_MODULES = {
    # to run experiments
    "run": "api.functions",
    "resume": "api.functions",
    "compare": "api.functions",
    "predict": "api.functions",
    "join": "api.functions",
    "show": "api.reading",
    "table": "api.reading",
    "Experiment": "config.experiment",
    "RunResult": "api.result",
    "UserError": "errors",
    "register_metric": "tasks.own_metrics",
    # to watch them
    "RunCallback": "callbacks.base",
    "RunInfo": "callbacks.base",
    "RoundRecord": "federation.record",
    "Outcome": "engines.base",
    "ProgressDisplay": "display.progress",
    # to write a method
    "register_method": "methods",
    "Method": "federation.method",
    "MethodOptions": "federation.method",
    "FederationInfo": "federation.method",
    "example_weights": "federation.method",
    "Client": "federation.client",
    "ClientSpec": "federation.client",
    "Message": "federation.message",
    "Reply": "federation.message",
    "Tensors": "federation.message",
    "LoraOptions": "adapters.lora.options",
    "ReftOptions": "adapters.reft.options",
    "aggregation": "aggregation",
}

__all__ = [
    "Client",
    "ClientSpec",
    "Experiment",
    "FederationInfo",
    "LoraOptions",
    "Message",
    "Method",
    "MethodOptions",
    "Outcome",
    "ProgressDisplay",
    "ReftOptions",
    "Reply",
    "RoundRecord",
    "RunCallback",
    "RunInfo",
    "RunResult",
    "Tensors",
    "UserError",
    "__version__",
    "aggregation",
    "compare",
    "example_weights",
    "join",
    "predict",
    "register_method",
    "register_metric",
    "resume",
    "run",
    "show",
    "table",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'fedpeft' has no attribute {name!r}")
    module = import_module(f"fedpeft.{_MODULES[name]}")
    value = module if name == "aggregation" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

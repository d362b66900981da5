"""A kind of adapter that the program does not have, for tests of what holds for any kind: PEFT's IA3."""

from contextlib import contextmanager
from typing import Literal
from unittest.mock import patch

from peft import IA3Config
from peft.tuners.ia3 import IA3Model
from pydantic import BaseModel

from fedpeft.adapters import KINDS, names
from fedpeft.adapters.kind import AdapterKind


class Ia3Options(BaseModel):
    kind: Literal["ia3"] = "ia3"

    def make_config(self, model, resources):
        return IA3Config(target_modules=["query", "value"], feedforward_modules=[], modules_to_save=["classifier"])


class Ia3Kind(AdapterKind):
    """Scales start at 1 and would decay to 0, which switches their layer off."""

    name = "ia3"
    tuner = IA3Model
    options = Ia3Options

    def is_decayed(self, name):
        return "ia3_" not in name


@contextmanager
def use_ia3():
    """Context manager in which models with IA3 can be adapted models."""
    prefixes = names._prefixes | {IA3Model.prefix}
    with patch("fedpeft.adapters.kinds.KINDS", (*KINDS, Ia3Kind())), patch.object(names, "_prefixes", prefixes):
        yield

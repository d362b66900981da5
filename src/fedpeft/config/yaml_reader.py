"""YAML as experiment files use it: mappings with text keys, lists, text, numbers, true, false and null.

What lets a file mean something else than it shows, or grow in memory, is refused with the line it stands on: a key
given twice, aliases, tags, control characters, deep nesting. Dates stay text.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NoReturn

import yaml

from fedpeft.errors import UserError, preview
from fedpeft.small_files import read_small_file

MAX_BYTES = 1 << 20
MAX_VALUES = 20_000  # keys and values of a file: a list of as many data files; some ten MiB as YAML nodes
MAX_DEPTH = 30
_MAX_DIGITS = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates, too: no text has them
_PLAIN_KINDS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "null")}


def read_yaml(path: Path) -> Any:
    """What a YAML file holds. Raises UserError, one line with the place, where it cannot be read."""
    data = read_small_file(path, MAX_BYTES, "experiment files are small: name data by folder")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} cannot be read as UTF-8 text; save the file as UTF-8") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What a YAML text says; `where` begins the message. Raises UserError."""
    try:
        return _Reader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{where}: {line}{error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # of the scanner: a \U escape above Unicode's end
        raise UserError(f"{where}: not valid YAML: {error}") from error


class _Reader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML declares it)
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _PLAIN_KINDS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            _refuse(event, f"the alias *{event.anchor} is not read; write the value out")
        if event.tag is not None:
            _refuse(event, f"the tag {event.tag} is not read; write the value without it")
        self.values += 1
        self.depth += 1
        if self.values > MAX_VALUES:
            _refuse(event, f"more than {MAX_VALUES:,} keys and values; name data by folder")
        if self.depth > MAX_DEPTH:
            _refuse(event, f"nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                _refuse(key_node, f"the key {preview(key)} is not text; put it in quotes")
            if key in mapping:
                _refuse(key_node, f"the key {preview(key)} is here a second time; remove one of the two")
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        is_whole = node.tag.endswith(":int")
        try:
            if len(node.value) > _MAX_DIGITS:
                raise ValueError
            return self.construct_yaml_int(node) if is_whole else self.construct_yaml_float(node)
        except ValueError:
            _refuse(node, f"{preview(node.value)} is not a number that can be read; put it in quotes if it is text")

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if _CONTROL.search(node.value):
            _refuse(node, f"{preview(node.value)} holds a control character; leave it out")
        return str(node.value)


_Reader.add_constructor("tag:yaml.org,2002:int", _Reader.construct_number)
_Reader.add_constructor("tag:yaml.org,2002:float", _Reader.construct_number)
_Reader.add_constructor("tag:yaml.org,2002:str", _Reader.construct_text)


def _refuse(node: Any, problem: str) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

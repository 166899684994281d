"""Changes to what files say: one field and its new value, as ``--set`` and every other flag ask for it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from bench.spec import SpecError

ALIASES = {"data.views": "train.views"}
"""Fields may be called by these names on the command line, too."""


class Change(NamedTuple):
    """A field that is to have another value: its dotted name in parts, the value, and how a user wrote the name."""

    path: tuple[str, ...]
    value: Any
    said: str

    @property
    def name(self) -> str:
        """The dotted name."""
        return ".".join(self.path)


class YAML(yaml.SafeLoader):
    """YAML 1.2's floats, and each key once.

    PyYAML follows YAML 1.1, reads ``1e-3`` as text, and lets the last of equal keys win.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that stands there twice is an error of the file."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


YAML.yaml_implicit_resolvers = {  # a copy: the class shares its table with SafeLoader
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YAML.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+0123456789."),
)


def assignment(text: str) -> Change:
    """The change that ``--set name=value`` asks for; the value is YAML."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(f"--set {text!r} must have the form name=value, such as train.steps=100")
    try:
        read = yaml.load(value, Loader=YAML)
    except yaml.constructor.ConstructorError as error:
        raise SpecError(f"--set {text!r}: {error.problem}") from None
    except (yaml.YAMLError, ValueError):
        raise SpecError(f"--set {text!r}: {value!r} is not a YAML value") from None
    full = ALIASES.get(path, path)
    parts = tuple(full.split("."))
    if not all(parts):
        raise SpecError(f"--set {text!r}: a part of the name {full!r} is empty")
    return Change(parts, read, f"--set {full}")

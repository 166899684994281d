"""Changes to what files say: one field and its new value, as ``--set`` and every other flag ask for it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from bench.spec import LARGEST, SpecError, printable, readable, shown
from bench.spec.parsing import SHOWN

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


LARGEST_FILE = 200_000
"""Bytes of a study file; those that ship have some thousand. PyYAML takes seconds for so many."""

NODES = 100_000
"""A file may hold so many values, with all that its aliases stand for."""

DEPTH = 30
"""So many groups may lie in each other."""


class YAML(yaml.SafeLoader):
    """YAML 1.2's numbers, each key once, no tags, and no more values or depth than a study can have.

    PyYAML follows YAML 1.1, reads ``1e-3`` as text, ``010`` as 8 and ``1:30`` as 90, and lets the last of equal keys
    win. A few lines of aliases of
    aliases stand for billions of values.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._open = 0
        self._extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """A node, counted with all that lies in it and how deep."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        self._refuse(tag, f"tags such as {shown(tag)} mean nothing here")
        self._open += 1
        self._refuse(self._open > DEPTH, f"more than {DEPTH} groups lie in each other")
        node = super().compose_node(parent, index)
        self._open -= 1
        if isinstance(event, yaml.AliasEvent):
            self._refuse(id(node) not in self._extents, "an alias stands for a group that it lies in")
        elif node is not None:
            self._extents[id(node)] = self._extent(node)
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        """Values in a node, and groups in each other."""
        inside = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inside for part in (entry if isinstance(entry, tuple) else (entry,))]
        extents = [self._extents[id(part)] for part in parts]
        values, depth = 1 + sum(count for count, _ in extents), 1 + max((deep for _, deep in extents), default=0)
        self._refuse(values > NODES, f"it holds more than {NODES:,} values, with all that its aliases stand for")
        self._refuse(depth > DEPTH, f"more than {DEPTH} groups lie in each other")
        return values, depth

    def _refuse(self, fault: object, reason: str) -> None:
        if fault:
            mark = self.peek_event().start_mark if self.check_event() else None  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, reason, mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that stands there twice is an error of the file."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key.value)} is there twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer, of as many digits as tables and tensors hold."""
        base = {"0x": 16, "0o": 8}.get(node.value[:2], 10)
        number = int(node.value, base) if len(node.value) < LONGEST_NUMBER else LARGEST + 1
        if abs(number) > LARGEST:
            raise yaml.constructor.ConstructorError(None, None, "an integer does not fit into 64 bits", node.start_mark)
        return number


INTEGER = "tag:yaml.org,2002:int"

LONGEST_NUMBER = 100
"""Characters of an integer: 64 bits have 64 as zeros and ones."""

YAML.yaml_implicit_resolvers = {  # a copy: the class shares its table with SafeLoader
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in ("tag:yaml.org,2002:float", INTEGER)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
YAML.add_constructor(INTEGER, YAML.construct_yaml_int)
YAML.add_implicit_resolver(
    INTEGER, re.compile(r"^[-+]?[0-9]+(_[0-9]+)*$|^0o[0-7]+$|^0x[0-9a-fA-F]+$"), list("-+0123456789")
)
YAML.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+0123456789."),
)


class NotYAML(ValueError):
    """Text that is no YAML, or more than a study can be: why, and in which line, if that is known."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.line = line


def parsed(text: str) -> Any:
    """The value that YAML holds.

    Raises:
        NotYAML: it holds none.
    """
    try:
        return yaml.load(text, Loader=YAML)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise NotYAML(str(reason), mark.line + 1 if mark else None) from None


def assignment(text: str) -> Change:
    """The change that ``--set name=value`` asks for; the value is YAML."""
    path, equals, value = text.partition("=")
    said = f"--set {shown(text)}"
    if not equals or not path:
        raise SpecError(f"{said} must have the form name=value, such as train.steps=100")
    try:
        read = parsed(value)
    except NotYAML as error:
        raise SpecError(f"{said}: {shown(value)} is not a YAML value: {error}") from None
    full = ALIASES.get(path, path)
    parts = tuple(full.split("."))
    if not all(parts):
        raise SpecError(f"{said}: a part of the name {shown(full)} is empty")
    if len(parts) > DEPTH:
        raise SpecError(f"{said}: no field lies so deep")
    return Change(parts, read, f"--set {full}")


def refuse_contradictions(changes: Sequence[Change]) -> None:
    """Refuse changes of which one would be lost: a field with two values, or a group laid over one of its fields.

    Raises:
        SpecError: naming the field and both changes.
    """
    for earlier, later in itertools.combinations(changes, 2):
        if _is_lost(earlier, later):
            name = max(earlier.name, later.name, key=len)
            values = " and ".join(f"{printable(readable(one.value))[:SHOWN]} ({one.said})" for one in (earlier, later))
            raise SpecError(f"{name} cannot be both {values}: give one of them")


def _is_lost(earlier: Change, later: Change) -> bool:
    """Whether a change takes something away from an earlier one."""
    group, field = sorted((earlier, later), key=lambda change: len(change.path))
    depth, inside = len(group.path), group.value
    if field.path[:depth] != group.path:
        return False
    for part in field.path[depth:]:
        if not isinstance(inside, dict) or part not in inside:
            return group is later
        inside = inside[part]
    return bool(inside != field.value)

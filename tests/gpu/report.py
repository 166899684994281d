"""What was found: lines, parts, and the report that is written after each of them. Standard library only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["to come", "done", "failed", "cut", "left out"]
"""``cut``: it took more than its time; ``left out``: what it needs is not here, or it was not asked for."""

BAD: tuple[Status, ...] = ("failed", "cut", "to come")


@dataclass(frozen=True)
class Line:
    """One figure.

    ``required``: missing the goal is an error of the code, not a slow machine. ``facts``: what else is to be known, for
    programs that read the JSON.
    """

    name: str
    value: float | None = None
    unit: str = ""
    goal: tuple[Literal[">=", "<="], float] | None = None
    required: bool = False
    note: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the figure reaches its goal, which NaN never does; None without a goal or a figure."""
        if self.goal is None or self.value is None:
            return None
        sign, bound = self.goal
        return self.value >= bound if sign == ">=" else self.value <= bound

    @property
    def wrong(self) -> bool:
        """Whether something is broken."""
        return self.required and self.met is not True


@dataclass
class Result:
    """What became of one part."""

    name: str
    status: Status = "to come"
    seconds: float = 0.0
    reason: str = ""
    lines: list[Line] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it ran to its end and found nothing wrong, or was left out."""
        return self.status not in BAD and not any(line.wrong for line in self.lines)


@dataclass
class Report:
    """All parts, those that are still to come included: a report that is cut off says so."""

    path: Path
    settings: Mapping[str, Any]
    machine: dict[str, Any]
    parts: list[Result]

    @property
    def good(self) -> bool:
        """Whether every part is."""
        return all(part.good for part in self.parts)

    def write(self) -> None:
        """Write ``path`` (JSON) and the table beside it, each in one step."""
        content = {
            "settings": dict(self.settings),
            "machine": self.machine,
            "good": self.good,
            "parts": [_plain(part) for part in self.parts],
        }
        for path, text in (
            (self.path, json.dumps(content, indent=2, allow_nan=False) + "\n"),
            (self.path.with_suffix(".md"), self.markdown()),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.{os.getpid()}")
            new.write_text(text, encoding="utf-8")
            new.replace(path)

    def markdown(self) -> str:
        """The table, with the machine above it."""
        machine = ", ".join(f"{name} {value}" for name, value in self.machine.items() if value)
        rows = [["part", "what", "figure", "goal", "note"], ["---"] * 5]
        for part in self.parts:
            rows += [list(row) for row in _rows(part)]
        return f"{machine}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _plain(part: Result) -> dict[str, Any]:
    lines = [{**asdict(line), "value": _finite(line.value), "met": line.met} for line in part.lines]
    return {**asdict(part), "lines": lines, "good": part.good}


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN; that such a figure misses its goal is kept."""
    return value if value is not None and math.isfinite(value) else None


def _rows(part: Result) -> Iterator[Sequence[str]]:
    for line in part.lines:
        yield part.name, *cells(line)
    if part.status != "done":
        yield part.name, part.status.upper() if part.status in BAD else part.status, "", "", part.reason


def cells(line: Line) -> tuple[str, str, str, str]:
    """What, figure, goal, note."""
    figure = "" if line.value is None else f"{digits(line.value)} {line.unit}".rstrip()
    goal = ""
    if line.goal is not None:
        judged = {True: "met", False: "MISSED" if line.required else "missed", None: "not measured"}[line.met]
        goal = f"{line.goal[0]} {line.goal[1]:g}: {judged}"
    return line.name, figure, goal, line.note.replace("|", "/")


def digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def text(name: str, line: Line) -> str:
    """A line as the terminal shows it."""
    what, figure, goal, note = cells(line)
    return f"{name}: {what}" + "".join(f"; {cell}" for cell in (figure, goal, note) if cell)

"""A line of the table, and the table as text, Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench import records

Goal = tuple[Literal[">=", "<="], float]
"""What a ratio is to reach, at least or at most."""


@dataclass(frozen=True)
class Line:
    """One comparison. The ratio is taken repeat by repeat: its two sides were measured next to each other."""

    name: str
    """The part of the benchmark it belongs to, see ``--only``."""
    work: str
    """What both sides did."""
    unit: str
    ours: Sequence[float]
    """One figure a repeat."""
    peer: str
    """Who the other side is."""
    theirs: Sequence[float]
    better: Literal["less", "more"] = "less"
    """Whether a good figure of ours is a small or a large one."""
    ratio_of: Literal["gain", "cost"] = "gain"
    """``gain``: how many times better ours is; ``cost``: ours over theirs."""
    goal: Goal | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """One a repeat."""
        pairs = list(zip(self.ours, self.theirs, strict=True))
        if self.ratio_of == "cost" or self.better == "more":
            return [ours / theirs for ours, theirs in pairs]
        return [theirs / ours for ours, theirs in pairs]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches the goal; None without one."""
        if self.goal is None:
            return None
        sign, bound = self.goal
        ratio = statistics.median(self.ratios)
        return ratio >= bound if sign == ">=" else ratio <= bound


@dataclass(frozen=True)
class Report:
    """All lines of one run, with where and how they were measured."""

    lines: Sequence[Line]
    settings: dict[str, Any]
    seconds: float
    provenance: dict[str, Any]

    def markdown(self) -> str:
        """The table, with the hardware above it."""
        hardware, versions = self.provenance["hardware"], self.provenance["versions"]
        devices = ", ".join(hardware["devices"]) or "no GPU"
        head = [
            f"{hardware['cpu']}, {hardware['cores']} cores, {devices}; "
            + ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "ray"))
            + f"; commit {(self.provenance['commit'] or 'unknown')[:10]}"
            + (" with changes" if self.provenance["dirty"] else "")
            + f"; {self.settings}; {self.seconds:.0f} s.",
            "",
            "Figures are medians over the repeats (lowest..highest); the ratio is taken within each repeat.",
            "",
        ]
        rows = ["| " + " | ".join(row) + " |" for row in [HEADER, ["---"] * len(HEADER), *map(cells, self.lines)]]
        return "\n".join([*head, *rows]) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """Write ``<time>.md`` and ``<time>.json``; an earlier run of the same day stays."""
        stem = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
        content = {
            "settings": self.settings,
            "seconds": self.seconds,
            "provenance": self.provenance,
            "lines": [{**dataclasses.asdict(line), "ratios": line.ratios, "goal_met": line.met} for line in self.lines],
        }
        paths = [folder / f"{stem}.md", folder / f"{stem}.json"]
        records.write_atomically(paths[0], self.markdown())
        records.write_atomically(paths[1], json.dumps(content, indent=2) + "\n")
        return paths


HEADER = ["line", "work", "unit", "ours", "peer", "theirs", "ratio", "goal", "note"]


def cells(line: Line) -> list[str]:
    """A line's cells, in the order of ``HEADER``."""
    goal = "" if line.goal is None else f"{line.goal[0]} {line.goal[1]:g}: {'met' if line.met else 'missed'}"
    return [
        line.name,
        line.work,
        line.unit,
        spread(line.ours),
        line.peer,
        spread(line.theirs),
        spread(line.ratios),
        goal,
        line.note,
    ]


def spread(values: Sequence[float]) -> str:
    """``median (lowest..highest)``, three digits each."""
    median = statistics.median(values)
    return digits(median) + (f" ({digits(min(values))}..{digits(max(values))})" if len(values) > 1 else "")


def digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

"""Events of a launch for programs: with ``--json`` each is a JSON object on a line of its own.

Every object has ``event`` and ``time``; what else there is is said by the classes here, and in the reference that
``make docs`` makes of them. Fields may be added; those that are here stay.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Event(BaseModel):
    """What all events have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    event: str
    time: str = Field(default_factory=_now, description="when it was written, ISO 8601 in UTC")


class StudyPlan(BaseModel):
    """A study of a launch."""

    name: str
    method: str = Field(description="how it fine-tunes")
    objective: str = Field(description="what its search maximises")
    trials: int = Field(description="trials of its search")
    confirmations: int = Field(description="trials that are confirmed with several seeds, at most")
    seeds: list[int] = Field(description="of the confirmations")
    rows: int = Field(description="rows of the leaderboard, but for variants")


class Plan(Event):
    """What will run, and where; the first event. With --dry-run nothing but the end follows."""

    event: Literal["plan"] = "plan"
    study: str
    benchmark: str
    trials: int = Field(description="trials of all searches and confirmations")
    studies: list[StudyPlan]
    slots: int | None = Field(description="trials at once; null where a cluster has not been joined")
    workers: int = Field(description="processes of a trial")
    device: Literal["cuda", "cpu"] | None = Field(description="null where a cluster has not been joined")
    folder: str = Field(description="launch folder")
    mlflow: str = Field(description="MLflow's store, without a password")


class Said(Event):
    """A sentence for people."""

    event: Literal["said"] = "said"
    level: Literal["note", "warning", "error"]
    text: str


class PhaseBegan(Event):
    """A study goes on to its search, or to the confirmation of what was found; the last phase is the conclusion."""

    event: Literal["phase"] = "phase"
    phase: Literal["search", "confirm", "conclude"]
    study: str
    trials: int = Field(description="that are queued for it; 0 for the conclusion")


class TrialStarted(Event):
    """A trial has begun; again, if its workers had died."""

    event: Literal["trial_started"] = "trial_started"
    trial: str
    method: str
    phase: Literal["search", "confirm"]
    seed: int
    hyperparameters: dict[str, Any]
    steps: int | None = Field(description="null where its length is asked for in epochs")


class TrialFinished(Event):
    """A trial has ended, one way or another, or had in an earlier try of the launch (``known``)."""

    event: Literal["trial_finished"] = "trial_finished"
    trial: str
    method: str
    phase: Literal["search", "confirm"]
    seed: int
    hyperparameters: dict[str, Any]
    status: Literal["ok", "failed", "stopped"]
    error: str | None = Field(description="why it failed")
    scores: dict[str, float] = Field(description="in percent, on validation data in a search and else on test data")
    seconds: float | None = Field(description="of its training")
    known: bool
    done: int = Field(description="trials that have ended")
    total: int = Field(description="trials of the launch")


class Answered(BaseModel):
    """Which row to take for a wish."""

    wish: str = Field(description="target_accuracy, forgetting_limit, mean, or source_accuracy")
    row: str | None = Field(description="its label; null if no row fulfils the wish")
    certain: bool = Field(description="whether it is told from every other row that comes into question, at 95 %")
    text: str


class Ranked(Event):
    """The leaderboard is written."""

    event: Literal["leaderboard"] = "leaderboard"
    folder: str
    board: dict[str, Any] = Field(description="what leaderboard.json holds")
    answers: list[Answered]


class Ended(Event):
    """The last event."""

    event: Literal["ended"] = "ended"
    status: Literal["done", "failed", "refused", "interrupted", "killed"]
    exit_code: int | None = Field(description="of the process; null if it was killed")
    text: str = Field(description="why, and how to go on; empty if all is well")


EVENTS: tuple[type[Event], ...] = (Plan, Said, PhaseBegan, TrialStarted, TrialFinished, Ranked, Ended)

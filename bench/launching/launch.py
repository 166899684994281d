"""A launch: a request that was looked up, laid together, checked and planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.folder import LaunchFolder
from bench.reporting import events
from bench.reporting.mlflow_address import without_password
from bench.resources import Plan
from bench.spec import Benchmark, LaunchOptions, Suite


@dataclass(frozen=True)
class Launch:
    """What is to be run, where, and where to write. ``plan`` is None where a cluster is not joined yet."""

    suite: Suite
    benchmark: Benchmark
    options: LaunchOptions
    results: Path
    tracking_uri: str
    plan: Plan | None
    said: tuple[str, ...] = ()
    """What is to be known of it before it runs: where it runs and logs, and why, if the environment has a say in it."""

    @property
    def folder(self) -> LaunchFolder:
        """Where it writes."""
        return LaunchFolder.of(self.results, self.suite.name, self.benchmark.name)

    def announced(self, plan: Plan | None) -> events.Plan:
        """What will run, as an event."""
        studies = [
            events.StudyPlan(
                name=study.name,
                method=study.method,
                objective=str(study.objective),
                trials=study.trials,
                confirmations=study.confirmations,
                seeds=list(study.seeds),
                rows=study.row_count,
            )
            for study in self.suite.studies
        ]
        return events.Plan(
            study=self.suite.name,
            benchmark=self.benchmark.name,
            trials=self.trials,
            studies=studies,
            slots=None if plan is None else plan.slots,
            workers=self.options.workers,
            device=None if plan is None else "cuda" if plan.gpu else "cpu",
            folder=str(self.folder.path),
            mlflow=without_password(self.tracking_uri),
        )

    def idle(self, plan: Plan) -> str:
        """A sentence if the search cannot keep all slots of a plan busy; else nothing."""
        lag = min(study.lag for study in self.suite.studies)
        if plan.slots <= lag:
            return ""
        return (
            f"; {plan.slots - lag} of the slots idle in a search whose lag is {lag} (--set lag={plan.slots} uses all)"
        )

    @property
    def trials(self) -> int:
        """Trials of all searches and confirmations."""
        return sum(study.all_trials for study in self.suite.studies)


def at_once(suite: Suite) -> int:
    """The most trials that are queued at the same time: a search, or the confirmations of a study."""
    return max(max(study.trials, study.confirmations) for study in suite.studies)

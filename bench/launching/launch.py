"""A launch: a request that was looked up, laid together, checked and planned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.folder import LaunchFolder
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
    """Where it runs and logs, and why, if the environment has a say in it."""

    @property
    def folder(self) -> LaunchFolder:
        """Where it writes."""
        return LaunchFolder.of(self.results, self.suite.name, self.benchmark.name)

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

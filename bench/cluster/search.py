"""Ray Tune: a search on the pool."""

from __future__ import annotations

import functools
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from bench.cluster.board import START_SECONDS
from bench.cluster.pool import Pool
from bench.cluster.pruning import Pruner, Seen, rungs
from bench.cluster.search_optuna import EXCESSES, METRIC, SEEN, STOPPED, decoded, label, nobody, proposals, record_of
from bench.readings import scores
from bench.records import Record
from bench.spec import Benchmark, Objective, Study, Trial, make_trial

INDEX = "trial_index"
"""Under this key Tune's configuration of a trial carries its place in the search."""

FAILED = "failed"
"""Under this key a trial's last result says whether it failed."""

SHARE_OF_NODE = 0.001
"""Tune's actor of a slot is given so much of what stands for the driver's node; it needs nothing, but not 0."""


def search(
    study: Study,
    benchmark: Benchmark,
    pool: Pool,
    *,
    launch: str,
    storage: Path,
    ended: Callable[[FrozenTrial], None] = nobody,
) -> None:
    """Run a study's search phase on the pool; the results are the pool's events.

    Args:
        launch: name under which the records are filed.
        storage: folder for Ray Tune's own files.
        ended: is told of every trial as Optuna knows it, in the order of the trials.
    """
    pruning = pruner(study, benchmark)
    submit = _Submit(pool.board, study, benchmark, launch, pruning)
    outcome = functools.partial(_outcome, board=pool.board, study=study)
    hear = nothing if pruning is None else functools.partial(heard, pruning)
    algorithm = InOrder(proposals(study, ended), submit, outcome, hear, lag=study.lag)
    at_once = min(pool.plan.slots, study.lag)  # no proposal waits for less, and each takes an actor of Tune
    watchers = min(at_once, study.trials)
    tuner = tune.Tuner(
        # The worker groups hold the cores and GPUs; what Tune starts only waits for them.
        tune.with_resources(
            tune.with_parameters(PooledTrial, board=pool.board, study=study, meeting=(uuid.uuid4().hex, watchers)),
            _on_own_node(),
        ),
        tune_config=tune.TuneConfig(
            search_alg=algorithm,
            scheduler=FIFOScheduler(),  # a trial that is to end early ends where it reports, see cluster/pruning
            num_samples=study.trials,
            max_concurrent_trials=at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"search-{study.labelled(study.name)}",
            storage_path=str(storage),
            verbose=0,
            callbacks=[JsonLoggerCallback()],  # what Tune reads back at the end; all other loggers are off
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # the pool's actor has no state to keep
            failure_config=tune.FailureConfig(max_failures=-1),  # an actor only watches: another one takes its place
        ),
    )
    tuner.fit()
    algorithm.finish()
    kept = range(max(0, study.trials - study.lag), study.trials)
    ray.get(pool.board.release.remote(*(record_of(study, index) for index in kept)))


def _on_own_node() -> tune.PlacementGroupFactory:
    """What an actor of Tune is given: a place beside the driver, whatever other nodes come and go."""
    own = ray.get_runtime_context().get_node_id()
    (node,) = (node for node in ray.nodes() if node["NodeID"] == own)
    name = next(name for name in node["Resources"] if name.startswith("node:") and "__" not in name)
    return tune.PlacementGroupFactory([{name: SHARE_OF_NODE}], bundle_label_selector=[{"ray.io/node-id": own}])


def pruner(study: Study, benchmark: Benchmark) -> Pruner | None:
    """What ends unpromising trials early, if the study wants that."""
    if study.scheduler == "none":
        return None
    values = {name: space.corners[0] for name, space in study.search.items()}
    # No searched field changes what is asked for here: such a study is refused before it starts.
    train = make_trial(study, benchmark, values, launch="", label="", seed=0, phase="search").train
    return Pruner(study.objective, rungs(train.val_every, train.steps))


Hear = Callable[[int, Mapping[str, Any]], None]
"""It is told a trial's index and last result."""


def nothing(index: int, result: Mapping[str, Any]) -> None:
    """Hears of trials where nobody wants to know."""


class InOrder(Searcher):
    """Makes an asynchronous search repeatable.

    Which of two concurrent trials ends first is chance, and a sampler that learns from whatever has ended proposes
    something else each time. Here proposal n is made knowing exactly the results of trials 0 .. n - lag, whatever else
    has ended by then; a result that comes earlier waits. So proposals depend on the study's ``lag`` and not on the
    number of slots; with up to ``lag`` slots one is held up only by a trial that is slower than the ``lag`` after it.

    Tune is given the mere index of a trial, and at once: an actor for which there is nothing to do it would end, and
    start another one seconds later. The proposal itself goes straight to the pool when it is its turn.
    """

    def __init__(
        self,
        inner: Searcher,
        submit: Callable[[int, dict[str, Any]], None],
        outcome: Callable[[int], dict[str, Any]],
        hear: Hear = nothing,
        *,
        lag: int,
    ) -> None:
        """Search as ``inner`` does.

        Args:
            submit: queues a proposal.
            outcome: waits for a submitted trial's last result; asked only where Tune has lost the actor that watched.
            hear: is told every trial's last result, in the order of the trials.
        """
        super().__init__(metric=METRIC, mode="max")
        self._inner = inner
        self._submit, self._outcome, self._hear = submit, outcome, hear
        self._lag = lag
        self._order: list[str] = []
        self._told = 0
        self._dealt = 0
        self._ended: dict[str, dict[str, Any] | None] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial's index."""
        self._order.append(trial_id)
        self._deal()
        return {INDEX: len(self._order) - 1}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Keep a result until its turn comes; an error is Tune's, not the trial's, and says nothing of its result."""
        self._ended[trial_id] = None if error else result
        self._deal()

    def _deal(self) -> None:
        """Submit the trials that are asked for and whose proposals lack no result any more."""
        while self._dealt < len(self._order):
            due = max(0, self._dealt - self._lag + 1)
            while self._told < due and self._order[self._told] in self._ended:
                self._tell()
            if self._told < due:
                return
            values = self._inner.suggest(self._order[self._dealt])
            assert values is not None  # Optuna never runs out of proposals
            self._submit(self._dealt, values)
            self._dealt += 1

    def finish(self) -> None:
        """Tell the inner search of the last trials, too, whose results no proposal has waited for.

        Of a search that is cut short some have not ended.
        """
        while self._told < len(self._order) and self._order[self._told] in self._ended:
            self._tell()

    def _tell(self) -> None:
        """Tell the inner search how the next trial in order has ended."""
        name = self._order[self._told]
        result = self._ended.pop(name) or self._outcome(self._told)
        failed = result.get(FAILED, False)
        self._hear(self._told, result)
        self._inner.on_trial_complete(name, result=None if failed else result, error=failed)
        self._told += 1

    def save(self, checkpoint_path: str) -> None:
        """Tune saves its searcher now and then; a study is restarted from its records, so nothing is kept here."""

    def restore(self, checkpoint_path: str) -> None:
        """See :meth:`save`."""
        raise NotImplementedError("a search is not restored; run the study again")


class PooledTrial(tune.Trainable):
    """Tune's view of a trial: passes the pool's validation readings on. It neither trains nor knows the proposal."""

    def setup(self, config: dict[str, Any], board: Any, study: Study, meeting: tuple[str, int]) -> None:  # type: ignore[override]
        """Remember where to watch, and whom; tune.with_parameters adds the arguments."""
        self._board, self._study, self._objective = board, study, study.objective
        self._meeting: tuple[str, int] | None = meeting
        self._watch(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Tune reuses this actor: end the old trial, if it still runs, and watch the new one."""
        self.cleanup()
        self._watch(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next validation reading, or for the end.

        A failed trial ends without a score, and not with an exception, after which Tune would start a new actor.
        """
        self._meet()
        self._watching = True
        point, record = None, None
        while point is None and record is None:
            point, record = ray.get(self._board.reading.remote(self._trial, self._seen))
        if point is not None:
            self._seen += 1
            return {"step": point.step, **_metric(self._objective, scores(point.readings))}
        assert record is not None
        self._watching = False  # the search releases it, once it has heard of its end
        return last_result(self._objective, record)

    def cleanup(self) -> None:
        """Stop the trial at its next report, if the search ended before its time.

        Tune may also have given the trial to another actor before this one had started: then it is not ours to stop.
        """
        if self._watching:
            ray.get(self._board.release.remote(self._trial))

    def _meet(self) -> None:
        """The actors of a search begin together: none has a result before Tune knows that all of them have started.

        Tune would give it the trial of one that is still starting, end that one, start another for the next trial, and
        so on. On a busy machine an actor starts in a minute. Tune asks for a step only once it knows of the actor.
        """
        if self._meeting is None:
            return
        # By the trial: an actor that takes a dead one's place is no further one.
        (place, count), who, end = self._meeting, self._trial, time.monotonic() + START_SECONDS
        while not ray.get(self._board.meet.remote(place, who, count)) and time.monotonic() < end:
            pass
        self._meeting = None

    def _watch(self, config: Mapping[str, Any]) -> None:
        self._trial, self._seen, self._watching = record_of(self._study, config[INDEX]), 0, False


@dataclass(frozen=True)
class _Submit:
    """Queues proposals as trials that are watched, each with the bar that it has to pass.

    With each, the last trial whose result it was made of is released: of those before it nothing is kept.
    """

    board: Any
    study: Study
    benchmark: Benchmark
    launch: str
    pruning: Pruner | None

    def __call__(self, index: int, values: Mapping[str, Any]) -> None:
        trial = searched(self.study, self.benchmark, values, index=index, launch=self.launch)
        bar = None if self.pruning is None else self.pruning.bar(index, trial.row)
        told = index - self.study.lag
        release = [record_of(self.study, told)] if told >= 0 else []
        minutes = self.study.trial_minutes
        ray.get(self.board.submit.remote(trial, watched=True, minutes=minutes, bar=bar, release=release))

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher with all that hangs on it, and nobody reads that."""
        return {}


def searched(study: Study, benchmark: Benchmark, values: Mapping[str, Any], *, index: int, launch: str) -> Trial:
    """The trial of a proposal."""
    chosen, seed = decoded(values, study.search), study.trial_seed
    named = study.labelled(label(index))
    return make_trial(study, benchmark, chosen, launch=launch, label=named, seed=seed, phase="search")


def heard(pruning: Pruner, index: int, result: Mapping[str, Any]) -> None:
    """Let what prunes know how a trial ended."""
    curve = {}
    for one in result.get(SEEN, ()):
        values = one[METRIC] if isinstance(one[METRIC], list) else [one[METRIC]]
        curve[one["step"]] = Seen(tuple(values), sum(max(0.0, excess) for excess in one.get(EXCESSES, ())))
    pruning.hear(index, curve, finished=not (result.get(FAILED, False) or result.get(STOPPED, False)))


def _outcome(index: int, *, board: Any, study: Study) -> dict[str, Any]:
    """The last result of a trial that no actor watches any more."""
    trial, record = record_of(study, index), None
    while record is None:
        _, record = ray.get(board.reading.remote(trial, sys.maxsize))
    return last_result(study.objective, record)


def last_result(objective: Objective, record: Record) -> dict[str, Any]:
    """What Tune, Optuna and what prunes get of a trial that has ended, and of all that was read of it on the way."""
    ended = {
        "step": record.steps,
        "done": True,
        FAILED: record.status == "failed",
        STOPPED: record.status == "stopped",
    }
    last, steps = record.scores, sorted({one.step for one in record.readings if 0 < one.step < record.steps})
    on_the_way = {step: scores(record.readings, step=step) for step in steps}
    read: dict[int, Mapping[str, float | None]] = {**on_the_way}
    if record.status != "failed":
        read[record.steps] = last
    curve = [{"step": step, **found} for step, named in read.items() if (found := _metric(objective, named))]
    return {**ended, **_metric(objective, last), SEEN: curve}


def _metric(objective: Objective, named: Mapping[str, float | None]) -> dict[str, Any]:
    """What Tune and Optuna get of a trial's scores; nothing where one that the objective looks at is missing."""
    values, excesses = objective.values(named), objective.excesses(named)
    if values is None or excesses is None:
        return {}
    measured: dict[str, Any] = {METRIC: list(values) if objective.others else values[0]}
    return {**measured, EXCESSES: list(excesses)} if objective.subject_to else measured

"""The search without Ray: the same proposals in whatever order trials end, and each as soon as it can be made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from bench import studies
from bench.search import FAILED, INDEX, InOrder, proposals

METRIC, TRIALS = "val_mean", 12


def play(ends: Sequence[int], *, failing: int | None = None) -> list[dict[str, Any]]:
    """Proposals of a search of two trials at once, whose trials end in the given order."""
    study = studies.load("block_expansion", settings={"trials": TRIALS}).studies[0]
    dealt: list[dict[str, Any]] = []

    def submit(index: int, values: dict[str, Any]) -> None:
        assert index == len(dealt)
        dealt.append(values)

    search = InOrder(proposals(study, METRIC, "max"), submit, metric=METRIC, mode="max", lag=2)
    asked = [search.suggest("0"), search.suggest("1")]
    for index in ends:
        good = {METRIC: 50 - 100 * abs(dealt[index]["lr"] - 0.05) + dealt[index]["p"]}
        search.on_trial_complete(str(index), {FAILED: True} if index == failing else good)
        asked.append(search.suggest(str(len(asked))))
        assert len(dealt) >= len(asked) - 1  # at most the newest waits for a result
    assert asked == [{INDEX: index} for index in range(len(asked))]
    return dealt


def test_the_order_in_which_trials_end_changes_no_proposal() -> None:
    in_turn = play(range(TRIALS - 2))
    swapped = play([index ^ 1 for index in range(TRIALS - 2)])
    assert in_turn == swapped
    assert len(in_turn) == TRIALS
    assert len({values["lr"] for values in in_turn}) > TRIALS // 2


@pytest.mark.parametrize("failing", [0, 3])
def test_a_failed_trial_teaches_the_sampler_nothing(failing: int) -> None:
    assert play(range(TRIALS - 2), failing=failing) != play(range(TRIALS - 2))

"""What loader processes make: all of it, in order, only a little ahead, and without a trace."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from bench import resources
from bench.data import _loading, ahead, processes_for
from bench.data._loading import AHEAD


def test_what_is_made_here_is_pinned_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loading, "pinned", lambda made: ("pinned", made))
    assert list(ahead([1, 2], lambda n: n * n, processes=0, pin=True)) == [(1, ("pinned", 1)), (2, ("pinned", 4))]


@pytest.mark.parametrize("processes", [0, 1, 3])
def test_items_come_with_what_is_made_of_them_in_order(processes: int) -> None:
    found = list(ahead(range(10), lambda n: (n * n, os.getpid()), processes=processes))
    assert [(item, square) for item, (square, _) in found] == [(n, n * n) for n in range(10)]
    pids = {pid for _, (_, pid) in found}
    assert pids == {os.getpid()} if not processes else os.getpid() not in pids and len(pids) == processes
    assert not multiprocessing.active_children()


def test_an_endless_stream_is_read_only_a_little_ahead() -> None:
    asked: list[int] = []

    def endless() -> Iterator[int]:
        for number in itertools.count():
            asked.append(number)
            yield number

    stream = ahead(endless(), torch.tensor, processes=2)
    assert [item for item, _ in itertools.islice(stream, 3)] == [0, 1, 2]
    assert len(asked) <= 3 + 2 * AHEAD + 1
    stream.close()  # as a trial does that is stopped
    assert not multiprocessing.active_children()


def test_errors_of_both_kinds_arrive() -> None:
    def halve(number: int) -> int:
        if number == 2:
            raise ValueError("2 is not to be halved")
        return 4 // number

    with pytest.raises(ValueError, match=r"^2 is not to be halved$"):
        list(ahead([4, 2, 1], halve, processes=1))
    with pytest.raises(ZeroDivisionError, match="Caught ZeroDivisionError in DataLoader worker"):
        list(ahead([4, 0], halve, processes=1))


def test_the_trials_own_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(ahead([1, 2], lambda n: n, processes=1))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("cores", "gpus", "expected"), [(2, 4, 1), (24, 2, 12), (128, 1, 16)])
def test_a_gpu_gets_its_share_of_the_cores_within_bounds(
    cores: int, gpus: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "cores", lambda: cores)
    monkeypatch.setattr(resources, "gpus_of_node", lambda: gpus)
    assert processes_for(torch.device("cuda")) == expected
    assert processes_for(torch.device("cpu")) == torch.get_num_threads()


@pytest.mark.parametrize(
    "error", [RuntimeError("unable to allocate shared memory(shm)"), OSError("AF_UNIX path too long")]
)
def test_without_shared_memory_everything_arrives_all_the_same(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose ``/dev/shm`` is full, or with a TMPDIR whose name is too long for a socket's."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", fails)
    made = {number: (torch.full((1000,), number), number) for number in range(6)}
    found = dict(ahead(range(6), lambda n: made[n], processes=2))
    assert all(torch.equal(found[n][0], made[n][0]) and found[n][1] == n for n in made)
    assert not multiprocessing.active_children()


def test_a_loader_that_is_killed_ends_the_trial_with_a_sentence() -> None:
    def fail(number: int) -> int:
        if number == 1:
            os.kill(os.getpid(), signal.SIGBUS)
        return number

    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        list(ahead([0, 1], fail, processes=1))

"""Functions of test modules, run on several ranks by processes that need not import torch anew.

A fork server imports what every rank needs once a session. Each run forks fresh processes from it, in which nothing has
been trained or measured, and which share nothing with an earlier run.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

PRELOADED = ["bench.trial", "timm", "torchvision", "peft", "pytest"]
"""What the server imports: all else is imported by a rank when it needs it."""

SECONDS = 200
"""Within which a run ends, on a busy machine."""

CONTEXT = multiprocessing.get_context("forkserver")


class RankError(AssertionError):
    """A rank raised or ended early; the message holds its traceback."""


class Ranks:
    """Runs a function on several ranks; the fixture ``ranks`` is one that is ready for it.

    The server ends with this process, however that ends, and the ranks with the run that started them.
    """

    def __init__(self) -> None:
        """Start the server; what it imports is ready when the first rank is needed."""
        CONTEXT.set_forkserver_preload(PRELOADED)
        forkserver.ensure_running()

    def __call__(
        self, function: Callable[..., Any], *arguments: Any, world: int = 2, seconds: float = SECONDS
    ) -> list[Any]:
        """What ``function(rank, world, *arguments)`` returned on every rank of a gloo process group, by rank.

        Args:
            function: of a module; found by its name in the processes of the ranks. Torch has one thread there.
            world: ranks; 1 is a fresh process without a process group.
            seconds: after which ranks that still run are killed.

        Raises:
            RankError: the first error of any rank; the other ranks are killed.
            TimeoutError: a rank took too long.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            job = pickle.dumps((function, arguments, f"file://{folder}/store", dict(os.environ)))
            pipes = [_start(stack, rank, world, job) for rank in range(world)]
            return _results(pipes, function.__name__, seconds)


def _start(stack: ExitStack, rank: int, world: int, job: bytes) -> Connection:
    """Start a rank, which is gone when the stack is closed; returns where its result will come from."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    stack.callback(ours.close)
    process = CONTEXT.Process(target=_serve, args=(rank, world, job, theirs), name=f"rank {rank}", daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(process.kill)
    theirs.close()  # so that the pipe ends with the rank
    return ours


def _results(pipes: Sequence[Connection], name: str, seconds: float) -> list[Any]:
    """Every rank's result, or the first error that arrives: those of other ranks follow from it."""
    end = time.monotonic() + seconds
    found: dict[int, Any] = {}
    while len(found) < len(pipes):
        left = [pipe for rank, pipe in enumerate(pipes) if rank not in found]
        ready = wait(left, max(0.0, end - time.monotonic()))
        if not ready:
            raise TimeoutError(f"{name} on ranks {[pipes.index(pipe) for pipe in left]}: no result in {seconds:g} s")
        for pipe in pipes:
            if pipe in ready:
                rank = pipes.index(pipe)
                found[rank] = _result(pipe, f"{name} on rank {rank}")
    return [found[rank] for rank in range(len(pipes))]


def _result(pipe: Connection, where: str) -> Any:
    try:
        value, error = pickle.loads(pipe.recv_bytes())
    except EOFError:
        raise RankError(f"{where} ended without a result") from None
    if error is not None:
        raise RankError(f"{where} raised:\n{error}")
    return value


def _serve(rank: int, world: int, job: bytes, pipe: Connection) -> None:
    """A rank's whole life."""
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
    try:
        # Pickled here: a pipe would send handles of tensors, which do not outlive their process.
        answer = pickle.dumps((_call(rank, world, *pickle.loads(job)), None))
    except BaseException:
        answer = pickle.dumps((None, traceback.format_exc()))
    pipe.send_bytes(answer)


def _call(
    rank: int,
    world: int,
    function: Callable[..., Any],
    arguments: Sequence[Any],
    store: str,
    environment: Mapping[str, str],
) -> Any:
    import torch
    import torch.distributed as dist

    os.environ.clear()
    os.environ.update(environment)
    gc.freeze()  # what is imported stays, and need not be gone through when garbage is collected
    torch.set_num_threads(1)
    if world == 1:
        return function(rank, world, *arguments)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
    value = function(rank, world, *arguments)
    dist.destroy_process_group()  # not after an error: it would wait for ranks that wait for this one
    return value


def _end_with_the_tests() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

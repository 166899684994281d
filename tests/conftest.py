"""What all tests share: a cache folder of their own, so that none of them depends on an earlier run's, ranks, order."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator
from typing import Any

import pytest

# Before torch is imported: the tests share the cores out among processes, and threads of each would fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.ranks import Ranks


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_DATA"] = str(tmp_path_factory.mktemp("cache"))


LONGEST = ("pool", "small", "ranks", "browser")
"""Groups of tests that stay in one process, in the order in which they are dealt out to processes."""


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist deal out groups in the order of the tests, and not by their number of tests."""
    config.option.loadscopereorder = False


def pytest_unconfigure() -> None:
    """Let go of what :func:`_quick_collections` has kept, before the interpreter looks for leaks."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules are imported: there is none, and to look for it takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Let a collection of garbage, with which every trial ends, not go through all imported modules each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """Runs functions on two ranks, see :class:`tests.ranks.Ranks`."""
    return Ranks()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let no test's store or cluster be the next one's: MLflow itself writes where it logs into the environment."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Let all tests that need ranks run in one process, which starts one server for them."""
    if "ranks" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.xdist_group("ranks"))


def place(item: pytest.Item) -> int:
    """What takes long begins early, so that all processes end at the same time."""
    marker = item.get_closest_marker("xdist_group")
    if marker is None:
        return len(LONGEST) + (item.get_closest_marker("slow") is None)
    return LONGEST.index(marker.args[0]) if marker.args[0] in LONGEST else len(LONGEST)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Sort the tests for several processes; a single one begins with those that are fast.

    And let pytest-xdist's groups work under pytest 9.2 as well (pytest-dev/pytest-xdist#1386).

    pytest-xdist 3.8 adds a test's group to ``_nodeid``. Since pytest 9.2 ``nodeid``, by which tests are dealt out, is
    made of ``_id`` instead: groups would be split without a word.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=place)
    for item in items:
        grouped = getattr(item, "_nodeid", None)
        if grouped is not None and grouped != item.nodeid:
            item._id = type(item._id).parse(grouped)

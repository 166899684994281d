"""What all tests share: a cache folder of their own, so that none of them depends on an earlier run's, and ranks."""

from __future__ import annotations

import os
from typing import Any

import pytest

# Before torch is imported: the tests share the cores out among processes, and threads of each would fight for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.ranks import Ranks


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_DATA"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """Runs functions on two ranks, see :class:`tests.ranks.Ranks`."""
    return Ranks()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Let no test's store or cluster be the next one's: MLflow itself writes where it logs into the environment."""
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        os.environ.pop(name, None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Let pytest-xdist's groups work under pytest 9.2 as well (pytest-dev/pytest-xdist#1386).

    pytest-xdist 3.8 adds a test's group to ``_nodeid``. Since pytest 9.2 ``nodeid``, by which tests are dealt out, is
    made of ``_id`` instead: groups would be split without a word.
    """
    for item in items:
        grouped = getattr(item, "_nodeid", None)
        if grouped is not None and grouped != item.nodeid:
            item._id = type(item._id).parse(grouped)

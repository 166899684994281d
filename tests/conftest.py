"""What all tests share: a cache folder of their own, so that none of them depends on an earlier run's, and ranks."""

from __future__ import annotations

import os

import pytest

from tests.ranks import Ranks


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_DATA"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def ranks() -> Ranks:
    """Runs functions on two ranks, see :class:`tests.ranks.Ranks`."""
    return Ranks()

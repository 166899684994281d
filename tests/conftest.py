"""What all tests share: a cache folder of their own, so that none of them depends on an earlier run's."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["BENCH_DATA"] = str(tmp_path_factory.mktemp("cache"))

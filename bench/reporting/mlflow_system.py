"""What the driver's machine is at while a launch runs: MLflow's system metrics, if its own switch asks for them."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

log = logging.getLogger(__name__)

EVERY_SECONDS = 10.0
"""A sample is taken so often, as MLflow does, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise."""

PREFIX = "system/"
"""MLflow's pages show metrics of such names apart."""


class SystemMetrics:
    """Samples of processors, memory, disk, network and NVIDIA GPUs of this machine, whoever uses them.

    They are the whole machine's, so that all workers on it are in them, and workers on other nodes are not.
    """

    def __init__(self, began: int) -> None:
        """Take no sample yet.

        Args:
            began: when the launch began, in milliseconds since 1970: steps count from there, also after it was cut.
        """
        from mlflow.environment_variables import (
            MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING,
            MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL,
        )

        self._began = began
        self._every = float(MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or EVERY_SECONDS)
        self._monitors = _monitors() if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() else []
        self._due = time.monotonic()

    def sample(self) -> list[tuple[str, float, int, int]]:
        """A point of each curve, if it is time: name, value, milliseconds since 1970, and as its step seconds."""
        if not self._monitors or time.monotonic() < self._due:
            return []
        self._due = time.monotonic() + self._every
        now = int(1000 * time.time())
        step = max(0, (now - self._began) // 1000)
        points = []
        for monitor in self._monitors:
            monitor.collect_metrics()
            points += [(PREFIX + name, float(value), now, step) for name, value in monitor.aggregate_metrics().items()]
            monitor.clear_metrics()
        return points


def _monitors() -> list[BaseMetricsMonitor]:
    """MLflow's own; that of GPUs needs one, and the package nvidia-ml-py."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        monitors.append(GPUMonitor())
    except (ImportError, RuntimeError) as error:
        log.info("MLflow: no system metrics of GPUs: %s", error)
    return monitors

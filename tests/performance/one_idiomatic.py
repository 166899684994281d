"""Child: the same trials the usual way, a Tune function that builds a TorchTrainer with a TuneReportCallback.

Answers with the seconds from before Ray starts to the last result.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from tests.performance.children import ROOT, answer, arguments


def train_one(config: dict[str, Any]) -> None:
    """In the worker: one trial, whose scores are reported at its end."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from bench import trial
    from bench.spec import Trial

    torch.set_num_threads(1)
    record = trial.run(Trial.model_validate_json(config["trial"]), device=get_device())
    if record.status != "ok":
        raise RuntimeError(record.error)
    ray.train.report({"seconds": (record.train_seconds or 0) + (record.eval_seconds or 0)})


def tune_one(config: dict[str, Any]) -> None:
    """In Tune's actor: a trainer of one worker for one trial."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    callbacks: list[Any] = [TuneReportCallback()]
    TorchTrainer(
        train_one,
        train_loop_config={"trial": config["trial"]},
        scaling_config=ScalingConfig(num_workers=1, use_gpu=config["gpu"]),
        run_config=RunConfig(storage_path=config["folder"], callbacks=callbacks),
    ).fit()


def main(trials: list[str], gpu: bool) -> dict[str, Any]:
    """One trial at a time."""
    import ray
    from ray import tune

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init("local", include_dashboard=False, log_to_driver=False, runtime_env=environment)
        space = {"trial": tune.grid_search(trials), "gpu": gpu, "folder": folder}
        results: Any = tune.Tuner(
            tune.with_resources(tune_one, {"CPU": 0.1}),
            param_space=space,
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        seconds = time.perf_counter() - start
        ray.shutdown()
    if results.errors:
        raise results.errors[0]
    return {"seconds": seconds, "busy": sum(result.metrics["seconds"] for result in results)}


if __name__ == "__main__":
    answer(**main(**arguments()))

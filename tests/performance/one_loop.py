"""Child: the same trials in a bare loop, in one process; answers with the seconds of the loop."""

from __future__ import annotations

import time

import torch

from bench import trial
from bench.spec import Trial
from tests.performance.children import answer, arguments

if __name__ == "__main__":
    torch.set_num_threads(1)  # as in a worker
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trials = [Trial.model_validate_json(text) for text in arguments()["trials"]]
    start = time.perf_counter()
    for one in trials:
        record = trial.run(one, device=device)
        if record.status != "ok":
            raise RuntimeError(record.error)
    answer(seconds=time.perf_counter() - start)

"""Marks in MLflow the runs of a launch that was killed: ``python -m bench.launching.killed FOLDER < ADDRESS``.

Whoever has gone on with the launch meanwhile has taken up its runs, and they are left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.folder import LaunchFolder
from bench.launching import resume
from bench.reporting import mlflow_killed
from bench.spec import SpecError


def main(folder: LaunchFolder, uri: str) -> None:
    """Mark what still runs of the unfinished launch in a folder.

    Args:
        uri: of the MLflow store.
    """
    store = mlflow_killed.opened(uri)  # before the folder is locked, since it takes seconds
    try:
        with folder.locked():
            launch = resume.unfinished(folder)
            if launch is not None:
                mlflow_killed.mark(store, launch)
    except SpecError:
        return


if __name__ == "__main__":
    main(LaunchFolder(Path(sys.argv[1])), sys.stdin.read())

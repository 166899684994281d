#!/usr/bin/env python3
"""The front door: run a study on this machine or on a Ray cluster. ``python launch.py --help`` teaches the rest."""

from __future__ import annotations

from bench.launching.cli import INTERRUPTED, arguments, main

__all__ = ["arguments", "main"]

if __name__ == "__main__":
    from bench.launching.command import exit_code, leave

    leave(exit_code(main, interrupted=INTERRUPTED))

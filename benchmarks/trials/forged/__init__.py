"""Forged and broken inputs: each with its expected answer, through the reader and over HTTP."""

from benchmarks.trials.forged.run import trial

__all__ = ["trial"]

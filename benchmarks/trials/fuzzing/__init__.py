"""Coverage-guided fuzzing of what reads bytes from elsewhere, with atheris (libFuzzer).

    pip install atheris
    python -m benchmarks.trials.fuzzing [TARGET ...] [--executions N] [--seed N] [--keep DIR]

Whatever a reader is given, it must give a good result or an error of the one tree
(``imaging.errors``), within the seconds and the memory of ``campaign``. Everything else is kept,
made as small as it goes; what was mended lies in ``tests/benchmarks/regressions``, and the unit
tests replay it.
"""

from benchmarks.trials.fuzzing.campaign import trial

__all__ = ["trial"]

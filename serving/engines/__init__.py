"""Models in memory: what runs them, which of it, and when they come and go."""

from serving.engines.engine import (
    DEVICES,
    RUNTIMES,
    Engine,
    check_device,
    check_runtime,
    footprint_mb,
    largest_file,
)
from serving.engines.held import Engines

__all__ = [
    "DEVICES",
    "RUNTIMES",
    "Engine",
    "Engines",
    "check_device",
    "check_runtime",
    "footprint_mb",
    "largest_file",
]

"""Confidences of a model held against what is true, on cases that it has not seen."""

from training.calibration.run import Calibrated, calibrate, put_into

__all__ = ["Calibrated", "calibrate", "put_into"]

"""Volumes in and out: geometry, NIfTI, DICOM, resampling and mask writers.

The ground floor. It knows nothing of models, torch or HTTP.
"""

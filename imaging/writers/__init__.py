"""Output formats. To add one: a file here and an entry in ``WRITERS``."""

from imaging.writers.nifti import write_nifti

WRITERS = {"nifti": write_nifti}

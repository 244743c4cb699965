"""Organs of a labelled CT take other patients' forms, and what lies around follows."""

from training.reshaping.cases import Reshaped, reshape_case
from training.reshaping.forms import ORGANS, Form, Forms, Organ
from training.reshaping.warp import Warp, towards

__all__ = ["ORGANS", "Form", "Forms", "Organ", "Reshaped", "Warp", "reshape_case", "towards"]

"""Random changes of a training patch: its geometry, and what scanners, protocols and people vary.

A network that learns from a handful of CTs meets every hospital's here, or wilder ones: contrast
phases, kernels, noise, thick slices, cut-off bodies (domain randomisation; Tobin et al. 2017 name
the idea, Billot et al. 2023 (SynthSeg) show it for segmentation across contrasts).
"""

from __future__ import annotations

from training.augment.geometry import keeps_place
from training.augment.inputs import augment_input
from training.augment.patch import augment_patch

__all__ = ["augment_input", "augment_patch", "keeps_place"]

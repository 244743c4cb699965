"""Lesions planted into any labelled CT, real or phantom: numpy and SimpleITK are enough for it.

The lesion's contrast is added under the image's own grain, so that noise and kernel stay those of
the scan. All work is done in the lesion's box. Real lesions' forms are in ``training.planting``.
"""

from training.lesions.kinds import GROWTH, KINDS, Growth, Kind, Lesion
from training.lesions.made import plant

__all__ = ["GROWTH", "KINDS", "Growth", "Kind", "Lesion", "plant"]

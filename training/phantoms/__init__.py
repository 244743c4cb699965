"""Procedural abdominal CTs: endless cases with exact labels, and no patient behind them."""

from training.phantoms.scan import ANNOTATED, PAINTED, Phantom, make_phantom, relabelled
from training.phantoms.sets import write_set
from training.phantoms.styles import STYLES, SiteStyle

__all__ = [
    "ANNOTATED",
    "PAINTED",
    "STYLES",
    "Phantom",
    "SiteStyle",
    "make_phantom",
    "relabelled",
    "write_set",
]

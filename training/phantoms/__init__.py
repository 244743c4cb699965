"""Procedural abdominal CTs: endless cases with exact labels, and no patient behind them."""

from training.phantoms.scan import ANNOTATED, PAINTED, Phantom, make_phantom, relabelled
from training.phantoms.sets import write_set
from training.phantoms.strangers import STRANGERS, make_stranger
from training.phantoms.styles import STYLES, SiteStyle

__all__ = [
    "ANNOTATED",
    "PAINTED",
    "STRANGERS",
    "STYLES",
    "Phantom",
    "SiteStyle",
    "make_phantom",
    "make_stranger",
    "relabelled",
    "write_set",
]

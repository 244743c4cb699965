"""Procedural abdominal CTs: endless cases with exact labels, and no patient behind them."""

from training.phantoms.scan import ANNOTATED, Phantom, make_phantom
from training.phantoms.sets import write_set
from training.phantoms.styles import STYLES, SiteStyle

__all__ = ["ANNOTATED", "STYLES", "Phantom", "SiteStyle", "make_phantom", "write_set"]

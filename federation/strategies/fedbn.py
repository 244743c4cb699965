"""FedBN: normalisation layers stay at their site (Li et al., ICLR 2021; SegViz's choice).

A site is scored, and served, with its own layers. A hospital that did not train has none: the
global model that is made for it carries the case-weighted mean of the sites' weights and pools
their statistics (:mod:`federation.unseen`), where the sites' policies let them leave.
"""

from __future__ import annotations

from federation.parts import NORMS
from federation.strategies.strategy import Strategy

FEDBN = Strategy("fedbn", "Li et al. 2021", keeps=frozenset({NORMS}))

"""Federated averaging: McMahan et al., AISTATS 2017; what Wang et al. 2020 train with."""

from __future__ import annotations

from federation.strategies.strategy import Strategy

FEDAVG = Strategy("fedavg", "McMahan et al. 2017")

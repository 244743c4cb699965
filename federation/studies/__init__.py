"""Studies by name. To add one: a file here and an entry in ``STUDIES``."""

from __future__ import annotations

from collections.abc import Mapping

from federation.studies.segviz import SEGVIZ
from federation.studies.study import Study, publish, repetition, run
from federation.studies.wang2020 import WANG2020

__all__ = ["STUDIES", "Study", "publish", "repetition", "run"]

STUDIES: Mapping[str, Study] = {study.name: study for study in (WANG2020, SEGVIZ)}

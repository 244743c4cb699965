"""What can honestly be said of a model: scores, planted lesions, robustness, failures, its card."""

from training.assess.card import Release, card
from training.assess.cost import Power
from training.assess.report import report
from training.assess.run import PARTS, Assessed, Settings, assess

__all__ = ["PARTS", "Assessed", "Power", "Release", "Settings", "assess", "card", "report"]

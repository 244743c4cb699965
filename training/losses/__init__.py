"""Losses: pure functions of a network's output and what a case's labels know.

Partial labels come in three shapes. A softmax model *folds* what a case does not annotate onto
what it looks like there (``marginal``, ``hec``); a sigmoid model leaves unknown channels out
(``dodnet``); a federation lets the global model teach what a site cannot see (``condist``).
"""

from training.losses.condist import condist, condist_weight
from training.losses.deep import deep_supervision
from training.losses.dice import dice_loss
from training.losses.dodnet import masked_dice_bce
from training.losses.hec import Group, hec_cross_entropy, hec_groups
from training.losses.marginal import (
    UNKNOWN,
    fold,
    folded_logits,
    marginal_dice,
    marginal_dice_ce,
    marginal_log_dice_ce,
)
from training.losses.vae import kl_divergence, reconstruction_l2
from training.losses.within import families, within_organs

__all__ = [
    "UNKNOWN",
    "Group",
    "condist",
    "condist_weight",
    "deep_supervision",
    "dice_loss",
    "families",
    "fold",
    "folded_logits",
    "hec_cross_entropy",
    "hec_groups",
    "kl_divergence",
    "marginal_dice",
    "marginal_dice_ce",
    "marginal_log_dice_ce",
    "masked_dice_bce",
    "reconstruction_l2",
    "within_organs",
]

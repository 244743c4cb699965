"""Deep supervision: one loss on several resolutions of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from imaging.errors import BadParameter


def deep_supervision(
    loss: Callable[[Tensor], Tensor], outputs: Tensor, weights: Sequence[float] | None = None
) -> Tensor:
    """The weighted sum of a loss over a network's main output and its coarser heads; a scalar.

    Args:
        loss: of one output (N, C, *space).
        outputs: (N, 1 + k, C, *space), the finest first, all at full size, as MONAI's DynUNet
            gives them in training.
        weights: one for each output. By default each is half the one before and they sum to 1
            (nnU-Net, Isensee et al. 2021): 0.5333, 0.2667, 0.1333, 0.0667 for k = 3.

    Raises:
        BadParameter: not one weight for each output.
    """
    levels = outputs.shape[1]
    if weights is None:
        weights = [2.0**-level / (2 - 2.0 ** (1 - levels)) for level in range(levels)]
    if len(weights) != levels:
        raise BadParameter(
            f"There are {len(weights)} weights for {levels} outputs; give one for each."
        )
    parts = [weight * loss(outputs[:, level]) for level, weight in enumerate(weights)]
    return sum(parts[1:], start=parts[0])

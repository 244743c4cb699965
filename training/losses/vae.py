"""What the VAE branch adds to segmentation (wang2020; Myronenko 2018, arXiv 1810.11654)."""

from __future__ import annotations

from torch import Tensor

from imaging.errors import BadParameter


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, variance) from N(0, 1), the mean over batch and latents; a scalar.

    0.5 mean(mean^2 + variance - log variance - 1). wang2020 weights it with 0.2.

    Args:
        mean, log_variance: the same shape, (N, latents).

    Raises:
        BadParameter: unequal shapes.
    """
    _same_shape(mean, log_variance)
    m, v = mean.float(), log_variance.float()
    # expm1 keeps the small terms of a latent that is nearly N(0, 1).
    return 0.5 * (m.square() + v.expm1() - v).mean()


def reconstruction_l2(image: Tensor, reconstructed: Tensor) -> Tensor:
    """The mean squared difference of two images of the same shape; wang2020 weights it with 0.3.

    Raises:
        BadParameter: unequal shapes.
    """
    _same_shape(image, reconstructed)
    return (image.float() - reconstructed.float()).square().mean()


def _same_shape(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise BadParameter(
            f"The shapes {tuple(a.shape)} and {tuple(b.shape)} differ; give equal ones."
        )

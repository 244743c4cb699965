"""The C2FNAS-like network and its autoencoder branch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imaging.errors import BadParameter
from models.architectures.c2fnas import C2FNAS, Cell


def count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())


@pytest.mark.parametrize(("filters", "total"), [(32, 15_313_856), (16, 3_830_240)])
def test_the_counts_of_its_two_widths(filters: int, total: int) -> None:
    assert count(C2FNAS(3, filters)) == total


def test_twelve_cells_in_the_searched_order() -> None:
    kernels = []
    for cell in (m for m in C2FNAS(3, 2).modules() if isinstance(m, Cell)):
        kernels.append([m.kernel_size for m in cell.operation.modules() if hasattr(m, "stride")])
    flat, through, whole = (1, 3, 3), (3, 1, 1), (3, 3, 3)
    encoder = [[flat], [flat, through], [whole], [whole], [whole], [flat]]
    decoder = [[whole], [whole], [flat, through], [whole], [flat], [whole]]
    assert kernels == [*encoder, *decoder]


def test_a_flat_cell_sees_one_slice_and_a_3d_cell_its_neighbours() -> None:
    torch.manual_seed(0)
    for kind, reach in (("2D", 0), ("P3D", 1), ("3D", 1)):
        # Without the norm, which looks at all slices.
        operation = Cell(kind, 2).operation[:2]
        x = torch.rand(1, 2, 7, 5, 5)
        changed = x.clone()
        changed[:, :, 3] += 1
        moved = (operation(changed) - operation(x)).abs().amax((0, 1, 3, 4)) > 0
        assert moved.nonzero().flatten().tolist() == list(range(3 - reach, 4 + reach))


def test_levels_have_their_sizes_and_widths() -> None:
    levels = C2FNAS(3, 2).encoder(torch.zeros(1, 1, 32, 48, 64))
    assert [tuple(level.shape) for level in levels] == [
        (1, 4, 16, 24, 32),
        (1, 8, 8, 12, 16),
        (1, 16, 4, 6, 8),
        (1, 32, 2, 3, 4),
    ]


# Features of a 96x96x96 patch: 16 channels of 3x3x3 voxels, or 512 of 6x6x6.
@pytest.mark.parametrize(("reduce", "features"), [(True, 432), (False, 110_592)])
def test_dense_layers_of_the_papers_patch(reduce: bool, features: int) -> None:
    with torch.device("meta"):
        branch = C2FNAS(3, vae=True, vae_reduce=reduce).vae
    assert branch is not None
    assert count(branch.mean) == count(branch.log_variance) == features * 128 + 128
    assert count(branch.recover) == 128 * features + features


@pytest.mark.parametrize(
    ("reduce", "patch"), [(True, (32, 64, 32)), (False, (32, 48, 32)), (False, (16, 32, 32))]
)
def test_the_image_comes_back_in_its_size_and_trains_every_weight(
    reduce: bool, patch: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    network = C2FNAS(3, 2, vae=True, patch=patch, vae_reduce=reduce)
    x = torch.randn(2, 1, *patch)
    logits, made = network.forward_vae(x)
    assert logits.shape == (2, 3, *patch)
    assert made.image.shape == x.shape
    assert made.mean.shape == made.log_variance.shape == (2, 128)
    noise = torch.randn_like(logits)
    (((made.image - x) ** 2).mean() + (logits * noise).mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_latent_vector_is_drawn_in_training_and_the_mean_in_evaluation() -> None:
    torch.manual_seed(0)
    network = C2FNAS(3, 2, vae=True, patch=(32, 32, 32))
    branch = network.vae
    assert branch is not None
    drawn: list[Tensor] = []
    branch.recover.register_forward_hook(lambda _m, i, _o: drawn.append(i[0]))
    nn.init.zeros_(branch.log_variance.weight)
    nn.init.constant_(branch.log_variance.bias, 4.0)
    endpoint = torch.randn(64, 32, 2, 2, 2)
    with torch.no_grad():
        torch.manual_seed(1)
        first = branch(endpoint)
        torch.manual_seed(1)
        branch(endpoint)
        branch(endpoint)
        evaluated = branch.eval()(endpoint)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    # A log-variance of 4 is a standard deviation of exp(2).
    noise = (drawn[0] - first.mean) / 7.389056
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05
    assert torch.equal(drawn[3], evaluated.mean)


def test_the_branch_changes_nothing_of_the_segmentation() -> None:
    torch.manual_seed(0)
    network = C2FNAS(3, 2, vae=True, patch=(32, 32, 32)).eval()
    plain = C2FNAS(3, 2).eval()
    plain.load_state_dict(
        {k: v for k, v in network.state_dict().items() if not k.startswith("vae.")}
    )
    x = torch.randn(1, 1, 32, 32, 32)
    assert torch.equal(network(x), plain(x))
    assert torch.equal(network.forward_vae(x)[0], plain(x))


@pytest.mark.parametrize(
    "options",
    [
        {"patch": (48, 32, 32)},
        {"patch": (32, 32)},
        {"patch": (24, 32, 32), "vae_reduce": False},
        {"patch": (0, 32, 32)},
    ],
)
def test_a_patch_that_cannot_come_back_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadParameter, match=r"three multiples of .*not \("):
        C2FNAS(3, 2, vae=True, **options)


def test_no_autoencoder_or_another_patch_is_refused() -> None:
    with pytest.raises(BadParameter, match="vae=True"):
        C2FNAS(3, 2).forward_vae(torch.zeros(1, 1, 32, 32, 32))
    with pytest.raises(BadParameter, match=r"\(32, 32, 32\), not \(32, 32, 64\)"):
        C2FNAS(3, 2, vae=True, patch=(32, 32, 32)).forward_vae(torch.zeros(1, 1, 32, 32, 64))

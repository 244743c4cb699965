"""Two U-Nets that see the same: one finds organs, the other tells what of an organ is a lesion.

Lesions are few, small and anywhere in an organ; organs are large and where they always are. A
network that has learned organs in large patches hardly learns lesions after it, one that sees
little but organs learns them at once (docs/decisions/036-lesions-apart.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from imaging.errors import BadParameter
from models.architectures.subpixel_unet import SubpixelUNet

_LESIONS = {"norm": "batch"}
# Steps of voxels (see SubpixelUNet.divisor) that the second network sees around organs.
_AROUND = 2
# The second network's score of the background where it does not look; its others are 0 there.
_SURE = 10.0


class LesionCascade(nn.Module):
    """Organs by the one network, and by the other what of each is organ and what lesion.

    An organ's score is shared by its family: the likeliest member, by the second network, has it
    whole, the others what they are less likely by. What the second one takes for background there
    (vessels and fat at an organ's edge) is the organ's, no lesion. Many cysts and tumors bulge out
    of what the first network takes for their organ: some voxels beyond it the background, if the
    first one sees it there, is a lesion's where the second one has it ahead of all else. In use
    that one looks at the box around the organs that may have one, since it is only asked there.

    Input (N, 1, Z, Y, X) with sides that are multiples of 16; output logits (N, channels, Z, Y, X).
    The second network's batch norms keep the statistics that they came with: they are those of
    patches around organs.

    Args:
        channels: output channels.
        organ_of: for each of them the channel of its organ, its own for an organ and the
            background; by default channel 1 is an organ and what follows are its lesions.
        organs, lesions: options of the two :class:`SubpixelUNet`.
        bulge: so many voxels a lesion may reach beyond its organ.

    Attributes:
        organs: gives a channel for the background and each organ, in their order.
        lesions: gives one for the background and each member of a family with lesions.
        organ_channels: of the output, that of each organ.
        both: the answer is a pair: the scores, and what ``organs`` gives.

    Raises:
        BadParameter: ``organ_of`` does not name an earlier organ for each channel, or no lesion, or
            ``bulge`` is negative.
    """

    def __init__(
        self,
        channels: int,
        organ_of: Sequence[int] | None = None,
        organs: Mapping[str, Any] | None = None,
        lesions: Mapping[str, Any] | None = None,
        bulge: int = 0,
    ) -> None:
        super().__init__()
        given = tuple(organ_of or (0, *[1] * (channels - 1)))
        kinds = sorted(set(given))
        families = {organ: [c for c, o in enumerate(given) if o == organ] for organ in kinds}
        named = all(organ <= c and given[organ] == organ for c, organ in enumerate(given))
        if len(given) != channels or not named or families[0] != [0] or len(kinds) == channels:
            raise BadParameter(
                f"organ_of {given} must name for each of {channels} channels that of its organ, "
                "for the background and organs their own, and have a lesion."
            )
        if bulge < 0:
            raise BadParameter(f"bulge must be 0 voxels or more, not {bulge}.")
        self._bulge = bulge
        self._families = [members for members in families.values() if len(members) > 1]
        self._organ = [kinds.index(organ) for organ in given]
        self.organ_channels = tuple(kinds[1:])
        self.both = False
        members = sum(map(len, self._families))
        self.organs = SubpixelUNet(len(kinds), **(organs or {}))
        self.lesions = SubpixelUNet(1 + members, **(_LESIONS | dict(lesions or {})))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        organs = self.organs(x)
        label = organs.argmax(1)
        lesions = self.lesions(x) if self.training else self._around(label, x)
        found = [organs[:, organ] for organ in self._organ]
        first = 1
        for family in self._families:
            shares = _shares(lesions, first, first + len(family))
            for i, channel in enumerate(family):
                found[channel] = found[channel] + shares[:, i]
            if self._bulge:
                beyond = _beyond(label, self._organ[family[0]], self._bulge)
                for i, channel in enumerate(family[1:], first + 1):
                    reaching = torch.maximum(found[channel], organs[:, 0] + _lead(lesions, i))
                    found[channel] = torch.where(beyond, reaching, found[channel])
            first += len(family)
        scores = torch.stack(found, 1)
        return (scores, organs) if self.both else scores

    def _around(self, label: Tensor, x: Tensor) -> Tensor:
        """The second network's scores around organs with families, the background's elsewhere."""
        wanted = torch.zeros_like(label, dtype=torch.bool)
        for family in self._families:
            wanted = wanted | (label == self._organ[family[0]])
        spans = [(axis + 1, _span(wanted, axis, self.lesions.divisor)) for axis in (1, 2, 3)]
        seen = x
        for axis, inside in spans:
            seen = seen.index_select(axis, inside.nonzero()[:, 0])
        scores: Tensor = self.lesions(seen)
        for axis, inside in spans:
            scores = _put_back(scores, axis, inside)
        return scores

    def train(self, mode: bool = True) -> LesionCascade:
        """Training, or not; the norms with running statistics are never trained."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
        return self


def _shares(lesions: Tensor, first: int, last: int) -> Tensor:
    """By how much each member of a family (channels from ``first`` to ``last`` of the second
    network) is behind the likeliest one; what is background there is the organ's."""
    healthy = torch.maximum(lesions[:, :1], lesions[:, first : first + 1])
    scores = torch.cat([healthy, lesions[:, first + 1 : last]], 1)
    return scores - scores.amax(1, keepdim=True)


def _lead(lesions: Tensor, channel: int) -> Tensor:
    """By how much a channel of the second network is ahead of the best other one."""
    others = torch.cat([lesions[:, :channel], lesions[:, channel + 1 :]], 1)
    return lesions[:, channel] - others.amax(1)


def _beyond(label: Tensor, organ: int, reach: int) -> Tensor:
    """The background (N, Z, Y, X) within so many voxels of an organ, along each axis."""
    near = (label == organ).float()[:, None]
    for axis in range(3):
        size, pad = [1, 1, 1], [0, 0, 0]
        size[axis], pad[axis] = 2 * reach + 1, reach
        near = functional.max_pool3d(near, size, 1, pad)
    return (near[:, 0] > 0) & (label == 0)


def _span(wanted: Tensor, axis: int, step: int) -> Tensor:
    """Which places to see along an axis of (N, Z, Y, X): a run of whole steps.

    All of it in tensors, so that an exported graph finds them anew for each input; and counted in
    steps, since OpenVINO takes a rounded division followed by a product for nothing. Nothing
    wanted is one step.
    """
    there = wanted.int().amax([a for a in range(wanted.ndim) if a != axis])
    there = there.reshape(-1, step).amax(1) > 0
    count = there.shape[0]
    index = torch.arange(count, device=wanted.device)
    first = (torch.where(there, index, count).amin() - _AROUND).clamp(min=0, max=count - 1)
    last = torch.where(there, index, -1).amax() + _AROUND
    inside = (index >= first) & (index <= torch.maximum(last, first))
    return inside[:, None].expand(-1, step).reshape(-1)


def _put_back(scores: Tensor, axis: int, inside: Tensor) -> Tensor:
    """Scores of a span at its place on a whole axis, the background's around it."""
    whole = scores.index_select(axis, (inside.long().cumsum(0) - 1).clamp(min=0))
    shape = [-1 if a == axis else 1 for a in range(scores.ndim)]
    sure = torch.zeros(scores.shape[1], device=scores.device)
    sure[0] = _SURE
    return torch.where(inside.reshape(shape), whole, sure.reshape(1, -1, 1, 1, 1))

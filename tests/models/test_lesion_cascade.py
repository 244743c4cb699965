"""Organs by one network, lesions in them by another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imaging.errors import BadParameter
from models.architectures.lesion_cascade import LesionCascade

SMALL = {"filters": [4, 8, 8]}
# Background, pancreas, its tumor, kidney, its tumor and cyst, liver.
ORGAN_OF = (0, 1, 1, 3, 3, 3, 6)


def cascade(**changes: Any) -> LesionCascade:
    torch.manual_seed(0)
    options: dict[str, Any] = {"organ_of": ORGAN_OF, "organs": SMALL, "lesions": SMALL}
    return LesionCascade(**({"channels": 7} | options | changes))


def test_the_first_network_says_where_organs_are_the_second_what_is_lesion() -> None:
    network = cascade().eval()
    x = torch.randn(1, 1, 32, 32, 32)
    with torch.no_grad():
        found, organs, lesions = network(x)[0], network.organs(x)[0], network.lesions(x)[0]
    organ_of = torch.tensor(ORGAN_OF)
    label, organ = found.argmax(0), torch.tensor([0, 1, 3, 6])[organs.argmax(0)]
    assert torch.equal(organ_of[label], organ)
    # Members of families in the second network: pancreas 1, 2 and kidney 3, 4, 5.
    for first, last in ((1, 3), (3, 6)):
        inside = organ == first
        assert inside.any()
        healthy = lesions[[0, first]].amax(0)
        member = first + torch.stack([healthy, *lesions[first + 1 : last]]).argmax(0)
        assert torch.equal(label[inside], member[inside])
    assert torch.equal(found[6], organs[3]), "an organ without lesions is as the first has it"


def test_its_batch_norms_stay_as_they_are() -> None:
    network = cascade()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms
    before = [m.running_mean.clone() for m in norms if m.running_mean is not None]
    network.train()(torch.randn(1, 1, 32, 32, 32) + 3).sum().backward()
    assert network.training
    assert network.organs.training
    assert all(torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True))
    assert all(m.weight.grad is not None for m in norms)


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": 6},
        {"organ_of": (0, 1, 2, 3, 4, 5, 6)},
        {"organ_of": (0, 2, 2, 3, 3, 3, 6)},
        {"organ_of": (0, 0, 2, 3, 3, 3, 6)},
        {"organ_of": (0, 1, 1, 2, 3, 3, 6)},
        {"lesions": SMALL | {"norm": "layer"}},
    ],
    ids=["count", "no lesion", "later", "of the background", "lesion of a lesion", "norm"],
)
def test_other_families_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadParameter):
        cascade(**changes)

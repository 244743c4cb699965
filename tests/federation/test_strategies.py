"""Both halves of every strategy: what a site adds to its loss, what the server makes of updates."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from federation.job import OWN_STEPS
from federation.parts import NORMS, Weights
from federation.strategies import STRATEGIES, Start, options_of, strategy
from federation.strategies.condist import groups_of
from federation.strategies.fedopt import ServerOptimizer
from federation.strategies.strategy import Plain
from imaging.errors import BadParameter
from models.labels import BY_NAME
from tests.training.tiny import flat, volumetric
from training.objective import Penalty
from training.recipe import Loss, Recipe

ORGANS = ("liver", "liver_tumor", "spleen", "pancreas", "pancreas_tumor", "kidney", "kidney_tumor")
NOTHING = torch.zeros(0)


def start(network: nn.Module, name: str, **changes: Any) -> Start:
    usual: dict[str, Any] = {
        "network": network,
        "shared": frozenset(n for n, _ in network.named_parameters()),
        "recipe": volumetric(),
        "annotated": ("pancreas",),
        "round": 0,
        "rounds": 3,
        "options": options_of(name, {}),
    }
    return Start(**{**usual, **changes})


def linear(weight: list[float], bias: float) -> nn.Linear:
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([weight]))
        network.bias.fill_(bias)
    return network


def test_names_and_options() -> None:
    assert tuple(STRATEGIES) == ("fedavg", "fedbn", "fedprox", "fedopt", "condist", "rfa")
    assert all(STRATEGIES[name].name == name for name in STRATEGIES)
    assert [name for name, s in STRATEGIES.items() if NORMS in s.keeps] == ["fedbn"]
    assert options_of("fedprox", {}) == {"mu": 0.01}
    assert options_of("fedprox", {"mu": 0.5}) == {"mu": 0.5}
    given = {"momentum": 0.9}
    assert options_of("fedopt", given) == {"lr": 1.0, "momentum": 0.9, "beta2": 0.0, "tau": 1e-3}
    assert strategy("fedopt").options["momentum"] == 0.6


def test_jobs_know_which_servers_move_by_steps_of_their_own() -> None:
    own = {n for n, s in STRATEGIES.items() if not isinstance(s.server(options_of(n, {})), Plain)}
    assert own == set(OWN_STEPS)


def test_unknown_names_and_figures_are_refused() -> None:
    with pytest.raises(BadParameter, match="no strategy 'fedsgd'; choose from fedavg, fedbn"):
        strategy("fedsgd")
    with pytest.raises(BadParameter, match="no strategy 'fedsgd'"):
        options_of("fedsgd", {})
    with pytest.raises(BadParameter, match=r"fedprox has no \['lr', 'nu'\]; it has mu"):
        options_of("fedprox", {"nu": 1.0, "mu": 1.0, "lr": 1.0})
    with pytest.raises(BadParameter, match=r"fedavg has no \['mu'\]; it has no figures"):
        options_of("fedavg", {"mu": 1.0})


@pytest.mark.parametrize("name", ["fedavg", "fedbn", "fedprox", "condist", "rfa"])
def test_these_servers_take_the_mean(name: str) -> None:
    server = strategy(name).server(options_of(name, {}))
    mean = {"w": np.array([1, -2], np.float32)}
    for _ in range(2):
        assert server.step(mean, frozenset()) == mean
    assert server.state() == {}


def penalty_of(made: Start, name: str) -> Penalty:
    penalty = STRATEGIES[name].penalty
    assert penalty is not None
    return penalty(made)


def test_fedprox_by_hand() -> None:
    network = linear([1.0, 2.0], 3.0)
    term = penalty_of(start(network, "fedprox", options={"mu": 0.5}), "fedprox")
    # At the received weights there is neither a penalty nor a pull.
    at_rest = term(network, NOTHING, NOTHING, NOTHING)
    at_rest.backward()
    assert at_rest == 0
    assert not network.weight.grad.any()
    assert not network.bias.grad.any()

    network.zero_grad()
    with torch.no_grad():
        network.weight += torch.tensor([[2.0, -4.0]])
        network.bias += 6.0
    away = term(network, NOTHING, NOTHING, NOTHING)
    away.backward()
    # 0.5 * 0.5 * (4 + 16 + 36), and mu times the distance.
    assert away.item() == pytest.approx(14.0)
    assert network.weight.grad.tolist() == [[1.0, -2.0]]
    assert network.bias.grad.tolist() == [3.0]


def test_fedprox_holds_what_was_received_alone() -> None:
    network = linear([1.0, 2.0], 3.0)
    made = start(network, "fedprox", shared=frozenset({"weight", "norm.running_mean"}))
    term = penalty_of(made, "fedprox")
    with torch.no_grad():
        network.bias += 6.0
    assert term(network, NOTHING, NOTHING, NOTHING) == 0


MEANS = [
    {"w": np.array(w, np.float32), "norm.running_mean": np.array([m], np.float32)}
    for w, m in (([1.0, -2.0], 4.0), ([0.5, 3.0], 5.0), ([-1.5, 0.25], 6.0))
]
STATISTICS = frozenset({"norm.running_mean"})


def steps(options: dict[str, float], restored: bool) -> list[Weights]:
    """The server's step in each of three rounds; every one in a new process, where asked."""
    made = options_of("fedopt", options)
    server, found = ServerOptimizer(made), []
    for mean in MEANS:
        if restored:
            state = {name: np.array(value) for name, value in server.state().items()}
            server = ServerOptimizer(made)
            server.restore(state)
        found.append(server.step(mean, STATISTICS))
    return found


@pytest.mark.parametrize("restored", [False, True])
def test_fedopt_is_sgd_with_momentum(restored: bool) -> None:
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.7, momentum=0.6)
    total = np.zeros(2, np.float32)
    for mean, step in zip(MEANS, steps({"lr": 0.7}, restored), strict=True):
        weight.grad = -torch.from_numpy(mean["w"])
        optimizer.step()
        total = total + step["w"]
        assert total == pytest.approx(weight.detach().numpy(), rel=1e-6)
        # A running mean is no gradient.
        assert step["norm.running_mean"] is mean["norm.running_mean"]
        assert step["w"].dtype == np.float32


@pytest.mark.parametrize("restored", [False, True])
def test_fedopt_is_adam_as_in_the_paper(restored: bool) -> None:
    # m = 0.9 m + 0.1 d; v = 0.5 v + 0.5 d**2 from tau**2; lr * m / (sqrt(v) + tau), tau 0.5, lr 2.
    options = {"lr": 2.0, "momentum": 0.9, "beta2": 0.5, "tau": 0.5}
    first = [np.array(m) for m in ([0.1, -0.2], [0.14, 0.12], [-0.024, 0.133])]
    second = [np.array(v) for v in ([0.625, 2.125], [0.4375, 5.5625], [1.34375, 2.8125])]
    for m, v, step in zip(first, second, steps(options, restored), strict=True):
        assert step["w"] == pytest.approx(2 * m / (np.sqrt(v) + 0.5), rel=1e-6)
        assert step["norm.running_mean"] in (4, 5, 6)


def test_fedopt_without_memory_is_the_mean() -> None:
    for mean, step in zip(MEANS, steps({"momentum": 0.0}, False), strict=True):
        assert step["w"].tolist() == mean["w"].tolist()


def eight(**changes: Any) -> Recipe:
    return volumetric(outputs=ORGANS, **changes)


def test_condist_groups_organs_with_their_lesions() -> None:
    assert [BY_NAME[n].parent for n in ORGANS[:3]] == [None, "liver", None]
    # The authors' groups of the site that labels the pancreas with its tumor.
    assert groups_of(eight(), ("pancreas", "pancreas_tumor")) == (
        [4, 5],
        [[0], [1, 2], [3], [6, 7]],
    )
    assert groups_of(eight(), ("spleen",)) == ([3], [[0], [1, 2], [4, 5], [6, 7]])
    # An organ without its lesions: these are left to the others.
    assert groups_of(eight(), ("pancreas",)) == ([4], [[0], [1, 2], [3], [5], [6, 7]])
    assert groups_of(eight(), ORGANS) == (list(range(1, 8)), [[0]])


class Counted(nn.Conv3d):
    """Says in which mode it was asked."""

    def forward(self, x: Tensor) -> Tensor:
        self.modes = [*getattr(self, "modes", []), self.training]
        return super().forward(x)


def test_condist_teacher_is_frozen() -> None:
    torch.manual_seed(0)
    network, images = Counted(1, 3, 1).train(), torch.rand(2, 1, 4, 4, 4)
    targets = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    taught = copy.deepcopy(network).eval()(images)
    term = penalty_of(start(network, "condist"), "condist")
    assert network.training
    assert all(p.requires_grad for p in network.parameters())

    before = term(network, images, targets, network(images))
    # Whatever becomes of the network in training, the teacher stays the one that was received.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape)
    logits = network(images)
    after = term(network, images, targets, taught)
    assert after.item() == pytest.approx(before.item(), rel=1e-6)
    # The penalty reaches the network through its logits, and by no other way.
    term(network, images, targets, logits).backward()
    grown = [p.grad.clone() for p in network.parameters()]
    assert all(bool(g.abs().sum() > 0) for g in grown)
    free = logits.detach().clone().requires_grad_()
    (by_hand,) = torch.autograd.grad(term(network, images, targets, free), free)
    assert by_hand.sum((0, 2, 3, 4)) == pytest.approx(grown[1], abs=1e-6)
    # The network's own answers were all in training mode: the teacher is another.
    assert network.modes == [True] * 2


def test_condist_grows_over_the_rounds() -> None:
    torch.manual_seed(0)
    network, images = nn.Conv3d(1, 3, 1), torch.rand(1, 1, 4, 4, 4)
    targets = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    logits = torch.randn(1, 3, 4, 4, 4)
    options = {"first": 0.25, "last": 0.75, "temperature": 2.0}
    values = [
        penalty_of(start(network, "condist", round=r, options=options), "condist")(
            network, images, targets, logits
        ).item()
        for r in range(3)
    ]
    assert values[0] > 0
    assert [v / values[0] for v in values] == pytest.approx([1, 2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": flat()}, "needs a softmax model"),
        ({"recipe": volumetric(loss=Loss(unlabelled="background"))}, "takes unlabelled as unknown"),
        ({"annotated": ("liver",)}, "nothing of tiny"),
        ({"annotated": ()}, "nothing of tiny"),
    ],
)
def test_condist_refuses_what_it_cannot_teach(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadParameter, match=message):
        penalty_of(start(nn.Conv3d(1, 3, 1), "condist", **changes), "condist")

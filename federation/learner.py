"""A site's network and cases: the medicine between a request and its reply."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from federation.holding import Kept, Own
from federation.home import Home
from federation.job import Job
from federation.parts import HEAD, Weights, parts_of, put, shared_weights
from federation.strategies import Start, options_of, strategy
from imaging.errors import Cancelled, DataError, MessageRefused
from training.cache import cached
from training.cases import Case, load
from training.datasets import open_dataset
from training.evaluate import score_case
from training.package import export_recipe, manifest_of, provenance_of, torch_scorer
from training.runs import make_phantoms
from training.trainer import Trainer

# Where no data set names cases to validate on, every so many-th patient for training is held back.
_HELD_BACK = 5


class Learner:
    """A site's training within a job; keeps nothing on disk itself.

    Args:
        job: what is trained.
        home: the site's cases and device.

    Attributes:
        cases: how many the site trains on.
        annotated: structures of the recipe that their labels speak of.

    Raises:
        DataError: no case to train on.
    """

    def __init__(self, job: Job, home: Home) -> None:
        self._job, self._site = job, home.name
        self.recipe = job.recipe_of(home.name)
        self._train, self._validation = cases_of(home.data)
        cache = home.folder / "cache"
        prepared = [cached(case, self.recipe, cache) for case in self._train]
        phantoms = make_phantoms(self.recipe)
        self._trainer = Trainer(self.recipe, [*prepared, *phantoms], device=home.device)
        self._initial = self._trainer.network.state_dict()
        self._initial = {name: value.clone() for name, value in self._initial.items()}
        known = {name for case in prepared for name in case.annotated}
        self.annotated = tuple(name for name in self.recipe.outputs if name in known)
        self.cases = len(prepared)
        keeps = strategy(job.strategy).keeps | ({HEAD} if job.local_head else set())
        self._parts = parts_of(self._trainer.network, self.recipe.architecture, keeps)
        self._received: Weights = {}
        # The round whose end the network in memory is at; others are read from disk.
        self._after: int | None = None

    def begin(self, number: int, received: Weights, kept: Kept | None) -> None:
        """Take up a round: the site's own tensors after its last one, the others as received.

        Args:
            number: of the round, from 0.
            received: all shared tensors.
            kept: the site after its last round before this one.

        Raises:
            MessageRefused: tensors of another network.
        """
        self._go_back_to(kept)
        self._put(received)
        self._received = received
        # A site that missed rounds goes on at the job's place in the schedule.
        self._trainer.step = number * self._job.local_epochs * self.recipe.steps_per_epoch
        self._trainer.objective.penalty = self._penalty(number)

    def show(self, received: Weights, kept: Kept | None) -> None:
        """Put a candidate in, to be scored; the site's own tensors as after its last round."""
        self._go_back_to(kept)
        self._put(received)

    def train(self, stop: Callable[[], bool]) -> float:
        """The round's epochs; returns their mean loss.

        Raises:
            Cancelled: told to stop.
            DataError: the loss is no number.
        """

        def watch(loss: float) -> None:
            del loss
            if stop():
                raise Cancelled("The round was withdrawn.")

        with self._trainer.batches() as batches:
            entries = [self._trainer.epoch(batches, watch) for _ in range(self._job.local_epochs)]
        return float(np.mean([entry["loss"] for entry in entries]))

    def update(self) -> Weights:
        """What the round changed in the shared tensors."""
        trained = shared_weights(self._trainer.network, self._parts.shared)
        return {name: trained[name] - self._received[name] for name in trained}

    def norms(self) -> Weights:
        """The site's own normalisation layers, where the strategy keeps them here."""
        return shared_weights(self._trainer.network, self._parts.norms)

    def scores(self) -> dict[str, float]:
        """Mean Dice by structure of the network in memory, on the site's validation cases."""
        manifest = manifest_of(self.recipe)
        network = self._trainer.network
        found = [
            score
            for case in self._validation
            for score in score_case(load(case), manifest, torch_scorer(network))
        ]
        names = dict.fromkeys(score.structure for score in found)
        return {n: float(np.mean([s.dice for s in found if s.structure == n])) for n in names}

    def judge_own(self, number: int, best: float) -> Own | None:
        """The network in memory, where it is better than the site's best so far."""
        scores = self.scores()
        score = float(np.mean(list(scores.values()))) if scores else float(number)
        if score <= best:
            return None
        return Own(number, score, self._trainer.network.state_dict())

    def kept(self, number: int, residual: Weights, reply: bytes) -> Kept:
        """The state after a round; its tensors are the live ones, so write it at once."""
        self._after = number
        return Kept(number, self._trainer.checkpoint(), self._received, residual, reply)

    def export(self, own: Own, job_id: str, path: Path) -> Path:
        """Write the site's best model as ONNX."""
        self._after = None
        network = self._trainer.network
        network.load_state_dict(own.network)
        steps = (own.round + 1) * self._job.local_epochs * self.recipe.steps_per_epoch
        provenance = dataclasses.replace(
            provenance_of(self.recipe, self._train, 0, steps),
            scope="local",
            site=self._site,
            round=own.round + 1,
            job=job_id or self._job.name,
        )
        export_recipe(network.cpu().eval(), self.recipe, provenance, path)
        return path

    def _go_back_to(self, kept: Kept | None) -> None:
        """The training as it was after a round; ``None`` forgets all of it."""
        if kept is None:
            self._trainer.network.load_state_dict(self._initial)
            self._trainer.forget()
        elif self._after != kept.round:
            self._trainer.restore(kept.checkpoint)
        self._after = None

    def _put(self, received: Weights) -> None:
        state = self._trainer.network.state_dict()
        wanted = {name: tuple(state[name].shape) for name in self._parts.shared}
        if {name: value.shape for name, value in received.items()} != wanted:
            raise MessageRefused("The server's tensors are not those of the job's network.")
        put(self._trainer.network, received)

    def _penalty(self, number: int) -> Callable[..., torch.Tensor] | None:
        made = strategy(self._job.strategy).penalty
        if made is None:
            return None
        start = Start(
            network=self._trainer.network,
            shared=frozenset(self._parts.shared),
            recipe=self.recipe,
            annotated=self.annotated,
            round=number,
            rounds=self._job.rounds,
            options=options_of(self._job.strategy, self._job.options),
        )
        return made(start)


def cases_of(folders: tuple[Path, ...]) -> tuple[list[Case], list[Case]]:
    """A site's cases to train on and to validate on; those for testing are left alone.

    Raises:
        DataError: no case to train on.
    """
    known = sorted((c for folder in folders for c in open_dataset(folder)), key=lambda c: c.name)
    train = [case for case in known if case.split == "train"]
    validation = [case for case in known if case.split == "validation"]
    if not validation:
        # All cases of a patient: a copy of what was trained on is no validation.
        held_back = list(dict.fromkeys(case.group for case in train))[_HELD_BACK - 1 :: _HELD_BACK]
        validation = [case for case in train if case.group in held_back]
        train = [case for case in train if case.group not in held_back]
    if not train:
        raise DataError("The site's folders hold no case to train on; name others with --data.")
    return train, validation

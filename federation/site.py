"""A hospital's side of a job: requests come in, replies go out, cases stay.

Whatever a site was asked, its state on disk is the one after a whole round, so that a process that
was killed, or a server that asks for a round again, goes on from there as if nothing had been.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from federation import message
from federation.codec import decode, encode, encode_with_feedback
from federation.holding import Holding, Kept
from federation.home import Home
from federation.job import Job
from federation.learner import Learner
from federation.parts import Weights, moved, under
from federation.privacy import protect
from imaging.errors import IsletError, MessageRefused, PolicyRefused
from imaging.files import whole_file
from models.store import Store

_LOG = logging.getLogger("islet.federation")
GLOBAL = "global"


def never() -> bool:
    """Nobody wants to stop."""
    return False


class Site:
    """A site in a job.

    Args:
        job: what is trained.
        home: what the site is on its machine.
        job_id: tells this job from earlier ones of the same name.
    """

    def __init__(self, job: Job, home: Home, job_id: str = "") -> None:
        self.job, self.home, self.job_id = job, home, job_id
        self.folder = home.folder / (job_id or job.name)
        self._holding = Holding(self.folder)
        self._learner: Learner | None = None

    def handle(self, request: bytes, stop: Callable[[], bool] = never) -> bytes:
        """The reply to a request of the job's server.

        A request that cannot be met is answered too, with the code of the error alone: its text
        may name what must not leave the site, and goes to the site's own log.

        Args:
            request: of ``federation.coordinator.Coordinator``.
            stop: asked between steps; the work ends where it says so.
        """
        try:
            header, arrays = message.unpack(request)
            answers = {
                "hello": self._hello,
                "train": self._train,
                "score": self._score,
                "finish": self._finish,
            }
            if header.get("kind") not in answers:
                raise MessageRefused(f"There is no request {str(header.get('kind'))[:40]!r}.")
            _check(header)
            self.home.policy.check(self.job, self.home.name)
            torch.set_num_threads(self.home.threads)
            facts, tensors = answers[header["kind"]](header, arrays, stop)
            allowed = self.home.policy.outgoing(facts)
            return message.pack({"kind": "done", "facts": allowed, **_echo(header)}, tensors)
        except IsletError as error:
            _LOG.error("%s: %s: %s", self.home.name, error.code, error.message)
            return message.pack({"kind": "refused", "code": error.code}, {})

    def _hello(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any], stop: Callable[[], bool]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Read the cases, so that what is wrong with them is known before any round."""
        del header, arrays, stop
        learner = self._learning()
        return {"cases": learner.cases, "annotated": list(learner.annotated)}, {}

    def _train(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any], stop: Callable[[], bool]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        number = int(header["round"])
        if not 0 <= number < self.job.rounds:
            raise MessageRefused(f"The job has {self.job.rounds} rounds and no round {number}.")
        kept = self._holding.before(number)
        received = _received(header, arrays, kept)
        done = self._holding.last()
        if done is not None and done.round >= number:
            again = done.round == number and _equal(received, done.reference)
            if again:
                # The server lost the round, the site did not.
                answer, tensors = message.unpack(done.reply)
                return answer["facts"], tensors
            if self.job.privacy is not None:
                raise PolicyRefused(
                    f"Round {number} has had its update; noise drawn anew would give away more "
                    "than the job's statement says."
                )
        return self._round(number, bool(header["score"]), received, kept, stop)

    def _round(
        self,
        number: int,
        score: bool,
        received: Weights,
        kept: Kept | None,
        stop: Callable[[], bool],
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Train a round; what leaves the site is on its disk before it does."""
        learner = self._learning()
        learner.begin(number, received, kept)
        started = time.monotonic()
        facts: dict[str, Any] = {"cases": learner.cases, "annotated": list(learner.annotated)}
        norms: Weights = {}
        if score:
            facts["scores"], norms = learner.scores(), learner.norms()
        facts["loss"] = learner.train(stop)
        own = None
        if (number + 1) % self.job.score_every == 0 or number + 1 == self.job.rounds:
            own = learner.judge_own(number, self._holding.best_score())
        facts["seconds"] = time.monotonic() - started
        update, residual = self._encoded(learner.update(), kept.residual if kept else {})
        tensors = self._tensors(update, norms)
        reply = message.pack({"facts": facts}, tensors)
        self._holding.keep(learner.kept(number, residual, reply), own)
        return facts, tensors

    def _score(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any], stop: Callable[[], bool]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Score a candidate that no round's training began with."""
        del stop
        learner = self._learning()
        learner.show(_received(header, arrays, None), self._holding.last())
        facts = {"cases": learner.cases, "scores": learner.scores()}
        return facts, self._tensors({}, learner.norms())

    def _finish(
        self, header: Mapping[str, Any], arrays: Mapping[str, Any], stop: Callable[[], bool]
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Publish the global model and the site's own best one in the site's store."""
        del header, stop
        store = Store(self.home.store)
        learner = self._learning()
        if "onnx" in arrays:
            path = self.folder / "global.onnx"
            with whole_file(path) as file:
                file.write(np.asarray(arrays["onnx"]).tobytes())
            store.publish(path, [GLOBAL])
        best = self._holding.best()
        if best is not None:
            path = learner.export(best, self.job_id, self.folder / "local.onnx")
            store.publish(path, [f"site-{self.home.name}"])
        return {}, {}

    def _learning(self) -> Learner:
        """The site's network and cases; read when they are first needed."""
        if self._learner is None:
            self._learner = Learner(self.job, self.home)
        return self._learner

    def _encoded(self, update: Weights, residual: Weights) -> tuple[dict[str, Any], Weights]:
        """What leaves the site of an update, and what its rounding left."""
        if self.job.privacy is not None:
            update = protect(update, self.job.privacy, np.random.default_rng())
        encoded, _, left = encode_with_feedback(update, residual, self.job.codec)
        return encoded, left

    def _tensors(self, update: Mapping[str, Any], norms: Weights) -> dict[str, NDArray[Any]]:
        found = {f"update/{name}": values for name, values in update.items()}
        # Under a promise of noise nothing leaves without it.
        if norms and "norms" in self.home.policy.may_leave and self.job.privacy is None:
            sent = encode(norms, self.job.codec)
            found |= {f"norms/{name}": values for name, values in sent.items()}
        return found


# What a request of a kind needs besides.
_NEEDED: Mapping[str, Mapping[str, type | UnionType]] = {
    "hello": {},
    "train": {"round": int, "attempt": int, "base": int | None, "score": bool},
    "score": {"candidate": str, "base": int | None},
    "finish": {"chosen": str},
}


def _check(header: Mapping[str, Any]) -> None:
    """Refuse a request that lacks something, before any work.

    Raises:
        MessageRefused: names it.
    """
    for name, kind in _NEEDED[header["kind"]].items():
        if name not in header or not isinstance(header[name], kind):
            raise MessageRefused(f"The request {header['kind']} needs {name}, as {kind}.")


def _echo(header: Mapping[str, Any]) -> dict[str, Any]:
    """What tells the server which of its requests this answers."""
    return {key: header[key] for key in ("round", "attempt", "candidate") if key in header}


def _received(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], kept: Kept | None
) -> Weights:
    """The shared tensors of a request: whole, or a difference to the last ones.

    Raises:
        MessageRefused: a difference to weights that the site does not have.
    """
    if header["base"] is None:
        return {n: np.array(a, np.float32) for n, a in under("weights/", arrays).items()}
    if kept is None or kept.round != header["base"]:
        raise MessageRefused(f"The site has no weights of round {header['base']} to add to.")
    return moved(kept.reference, decode(under("change/", arrays)))


def _equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)

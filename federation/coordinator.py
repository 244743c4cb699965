"""The server's side of a job: the global model, its rounds, and who took part in which.

It holds no case and sees none. Its state is on disk after every round; a process that takes the
folder over goes on in the round that was under way.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from federation import message
from federation.answer import Facts, answer_of, norms_of
from federation.beginning import started
from federation.codec import decode, encode_with_feedback
from federation.job import Job
from federation.parts import HEAD, moved, parts_of, rows_of, shared_weights, under
from federation.privacy import statement
from federation.progress import (
    FAILED,
    LATE,
    ROUNDS,
    TOOK_PART,
    TRAINING,
    WAITING,
    Entry,
    History,
    Round,
)
from federation.selection import Candidates
from federation.strategies import options_of, strategy
from imaging.errors import JobFailed, MessageRefused, UpdateRefused
from imaging.files import sweep, whole_file
from training.trainer import initial_network

MATRIX = "matrix.json"
_STATE = "state.bin"


class Coordinator:
    """The global model of a job, between its rounds and in them.

    Args:
        job: what is trained.
        folder: of the job's state; one that was begun is gone on with.
        job_id: tells this job from earlier ones of the same name.
        notes: sentences for the report.

    Attributes:
        round: the one that is under way or next, from 0; ``job.rounds`` after the last.
        attempt: at it, from 1.
        sites: what the sites said of themselves.
        candidates: for the global model.
        before: what the provenance says of the weights that the first round began with.
    """

    def __init__(
        self, job: Job, folder: Path, job_id: str = "", notes: tuple[str, ...] = ()
    ) -> None:
        self.job, self.folder, self.job_id = job, folder, job_id
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
        self._notes = notes
        begun = (folder / _STATE).exists()
        network, self.before = (initial_network(job.recipe), ()) if begun else started(job)
        keeps = strategy(job.strategy).keeps | ({HEAD} if job.local_head else set())
        self._parts = parts_of(network, job.recipe.architecture, keeps)
        self._rows = rows_of(network, job.recipe) if job.label_aware else {}
        self._step = strategy(job.strategy).server(options_of(job.strategy, job.options))
        # The master copy, and what the sites hold of it: the two differ by what rounding has not
        # sent yet.
        self._model = shared_weights(network, self._parts.shared)
        norms = shared_weights(network, self._parts.norms)
        self._norm_shapes = {name: value.shape for name, value in norms.items()}
        self.reference = dict(self._model)
        self._change: dict[str, NDArray[Any]] = {}
        self._holds: dict[str, int] = {}
        self.sites: dict[str, Facts] = {}
        self.candidates = Candidates(folder)
        self._closed: list[Round] = []
        self.round, self.attempt = 0, 1
        if begun:
            self._load()
        self._resume_history()
        self._begin_attempt()

    @property
    def trained(self) -> bool:
        """Whether every round is done."""
        return self.round >= self.job.rounds

    def hello(self) -> bytes:
        """The first request to a site."""
        return message.pack({"kind": "hello", "job": self.job.name}, {})

    def welcome(self, site: str, body: bytes) -> None:
        """Take in what a site says of itself.

        Raises:
            UpdateRefused: the site refused; its code is in the details.
        """
        self.sites[site] = Facts.read(answer_of(body)[0]["facts"])
        self._holds.pop(site, None)
        self._note(site, WAITING)

    def request(self, site: str) -> bytes:
        """The request for this round's training: a difference, where the site can add it."""
        base = self.round - 1 if self._holds.get(site) == self.round - 1 >= 0 else None
        if not any(entry.down_bytes for entry in self._entries.values()):
            self._started = datetime.datetime.now(datetime.UTC)
        name = self.candidates.name(self.round)
        header = {
            "kind": "train",
            "round": self.round,
            "attempt": self.attempt,
            "base": base,
            "score": name in self.candidates.names,
        }
        whole = {f"weights/{n}": a for n, a in self.reference.items()}
        change = {f"change/{n}": a for n, a in self._change.items()}
        body = message.pack(header, whole if base is None else change)
        self._note(site, TRAINING, down_bytes=len(body))
        return body

    def accept(self, site: str, body: bytes, seconds: float) -> None:
        """Take in a site's update.

        Args:
            site: its name.
            body: its reply.
            seconds: since it was asked.

        Raises:
            MessageRefused: the site lacks what the difference refers to; ask it again.
            UpdateRefused: anything else that must not join the round; the entry says why.
        """
        base = self._holds.pop(site, None)
        try:
            header, arrays = answer_of(body)
            if (header.get("round"), header.get("attempt")) != (self.round, self.attempt):
                raise UpdateRefused("The update belongs to another round.", code="late")
            facts = Facts.read(header["facts"])
            norms = norms_of(arrays, self._norm_shapes)
            update = decode(under("update/", arrays))
            weight = self.job.weight_of(site, facts.cases)
            self._updates.add(update, weight, self._labelled(facts.annotated))
        except (UpdateRefused, MessageRefused) as error:
            code = error.details.get("code", error.code)
            if code == MessageRefused.code and base == self.round - 1:
                raise MessageRefused("The site has lost its weights.") from error
            self._note(site, LATE if code == "late" else f"refused: {code}", up_bytes=len(body))
            raise UpdateRefused(f"{site}: {error.message}", code=code) from error
        self.sites[site], self._holds[site] = facts, self.round
        now = time.monotonic()
        self._busy.append((now - (facts.seconds or seconds), now))
        name = self.candidates.name(self.round)
        if name in self.candidates.names:
            self.candidates.scored(name, site, facts.scores, norms)
        self._note(
            site,
            TOOK_PART,
            cases=facts.cases,
            loss=facts.loss,
            seconds=seconds if facts.seconds is None else facts.seconds,
            up_bytes=len(body),
            dice=facts.scores,
        )

    def missed(self, site: str, state: str = FAILED) -> None:
        """Note that a site gave nothing in this round."""
        self._holds.pop(site, None)
        self._note(site, state)

    @property
    def updates(self) -> int:
        """How many updates this round has."""
        return self._updates.sites

    def entry(self, site: str) -> Entry:
        """What is known of a site in this round."""
        return self._entries[site]

    def close_round(self) -> Round:
        """End the round: the next global model, its state on disk.

        Raises:
            JobFailed: no update came.
        """
        if not self._updates.sites:
            raise JobFailed(f"Round {self.round + 1} has no update; look at the sites' logs.")
        change = self._step.step(self._updates.result(), self._parts.statistics)
        self._model = moved(self._model, change)
        gap = {name: self._model[name] - self.reference[name] for name in self._model}
        self._change, rounded, _ = encode_with_feedback(gap, {}, self.job.codec)
        self.reference = moved(self.reference, rounded)
        made = self._end_attempt()
        self.round, self.attempt = self.round + 1, 1
        if self.round % self.job.score_every == 0 or self.trained:
            self.candidates.add(self.candidates.name(self.round), self.reference)
        self.save()
        self._begin_attempt()
        return made

    def repeat_round(self) -> Round:
        """Give an attempt up and begin the round anew."""
        made = self._end_attempt()
        self.attempt += 1
        self._begin_attempt()
        return made

    def score_request(self, name: str) -> bytes:
        """The request to score a candidate."""
        weights = {f"weights/{n}": a for n, a in self.candidates.weights(name).items()}
        return message.pack({"kind": "score", "candidate": name, "base": None}, weights)

    def accept_scores(self, site: str, body: bytes) -> None:
        """Take in a site's scores of a candidate.

        Raises:
            UpdateRefused: the site refused, or scored what is no candidate.
        """
        header, arrays = answer_of(body)
        if header.get("candidate") not in self.candidates.names:
            raise UpdateRefused(f"{site} scored what is no candidate.")
        facts = Facts.read(header["facts"])
        norms = norms_of(arrays, self._norm_shapes)
        self.candidates.scored(header["candidate"], site, facts.scores, norms)

    def history(self) -> History:
        """The job so far."""
        rounds = [*self._closed, self._round()] if self._entries else self._closed
        return History(
            job=self.job.name,
            job_id=self.job_id,
            strategy=self.job.strategy,
            recipe=self.job.recipe.name,
            rounds=tuple(rounds),
            matrix=self.candidates.matrix(self.cases, self.job.rule) if self.trained else None,
            privacy=statement(self.job.privacy, len(self._closed))[1]
            if self.job.privacy
            else "none",
            sites=tuple(sorted({*self.sites, *(e.site for r in rounds for e in r.entries)})),
            notes=self._notes,
        )

    @property
    def cases(self) -> dict[str, int]:
        """Training cases by site."""
        return {site: facts.cases for site, facts in self.sites.items()}

    def save(self) -> None:
        """Write the state: all of it, or what was there stays."""
        header = {
            "job": self.job.to_json(),
            "round": self.round,
            "sites": {s: [facts.cases, facts.annotated] for s, facts in self.sites.items()},
            "candidates": self.candidates.state(),
            "before": list(self.before),
            "history": self.history().to_json(),
        }
        arrays = {f"model/{n}": a for n, a in self._model.items()}
        arrays |= {f"reference/{n}": a for n, a in self.reference.items()}
        arrays |= {f"step/{n}": a for n, a in self._step.state().items()}
        arrays |= {f"norms/{n}": a for n, a in self.candidates.arrays().items()}
        with whole_file(self.folder / _STATE, durable=True) as file:
            file.write(message.pack(header, arrays))
        self.history().save(self.folder / ROUNDS)

    def _load(self) -> None:
        try:
            header, arrays = message.unpack((self.folder / _STATE).read_bytes())
        except MessageRefused as error:
            raise JobFailed(
                f"The state in {self.folder.name} is damaged ({error.message}); delete the folder "
                "and submit the job again."
            ) from error
        if header["job"] != self.job.to_json():
            raise JobFailed(f"{self.folder.name} holds another job; name a folder of its own.")
        self.round, self.before = header["round"], tuple(header["before"])
        self.sites = {s: Facts(n, tuple(named)) for s, (n, named) in header["sites"].items()}
        self._model = dict(under("model/", arrays))
        self.reference = dict(under("reference/", arrays))
        self._step.restore(under("step/", arrays))
        self.candidates = Candidates(self.folder, header["candidates"], under("norms/", arrays))
        self._closed = list(History.from_json(header["history"]).rounds)

    def _resume_history(self) -> None:
        """What the last process noted of a round that it did not end."""
        path = self.folder / ROUNDS
        if not path.exists():
            return
        begun = [r for r in History.load(path).rounds if r.number == self.round + 1]
        for made in begun:
            entries = tuple(
                dataclasses.replace(e, state=FAILED) if e.state in (WAITING, TRAINING) else e
                for e in made.entries
            )
            self._closed.append(dataclasses.replace(made, entries=entries))
            self.attempt = made.attempt + 1

    def _begin_attempt(self) -> None:
        shapes = {name: value.shape for name, value in self._model.items()}
        chosen = strategy(self.job.strategy)
        options = options_of(self.job.strategy, self.job.options)
        self._updates = chosen.aggregate(shapes, self._rows, options)
        self._entries: dict[str, Entry] = {}
        # When sites trained, from their own word and the arrival of their updates.
        self._busy: list[tuple[float, float]] = []
        self._started = datetime.datetime.now(datetime.UTC)

    def _end_attempt(self) -> Round:
        self._closed.append(self._round())
        self._entries = {}
        return self._closed[-1]

    def _round(self) -> Round:
        """The attempt that is under way."""
        seconds = (datetime.datetime.now(datetime.UTC) - self._started).total_seconds()
        entries = tuple(self._entries[site] for site in sorted(self._entries))
        busy = sum(b - a for a, b in united(self._busy))
        return Round(
            self.round + 1,
            self.attempt,
            self._started.isoformat(timespec="seconds"),
            seconds,
            entries,
            max(0.0, seconds - busy),
        )

    def _note(self, site: str, state: str, **known: Any) -> None:
        """What happened at a site in a round; on disk at once, for whoever asks."""
        if self.trained:
            return
        blank = Entry(site, WAITING, None, None, None, 0, 0, {})
        entry = self._entries.get(site, blank)
        down = entry.down_bytes + known.pop("down_bytes", 0)
        self._entries[site] = dataclasses.replace(entry, state=state, down_bytes=down, **known)
        self.history().save(self.folder / ROUNDS)

    def _labelled(self, annotated: tuple[str, ...]) -> frozenset[int]:
        """The output channels that a site has labels for."""
        softmax = self.job.recipe.activation == "softmax"
        named = [c for c, n in enumerate(self.job.recipe.outputs, softmax) if n in annotated]
        return frozenset([0, *named] if softmax else named)


def united(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Spans of time without their overlaps, in order."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found

"""Driving a job to its end: who is asked what, how long a round waits, what is done then.

The policy stands here once, whatever carries the bytes. A site may come late, come back as another
process, be slow, fail or answer nonsense; a round ends with those that took part.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from federation.coordinator import Coordinator
from federation.exchange import Exchange, Reply
from federation.progress import FAILED, LATE, Round, line
from federation.result import finish
from imaging.errors import Cancelled, JobFailed, MessageRefused, UpdateRefused

_LOG = logging.getLogger("islet.federation")
# A round that did not find enough sites is begun anew so many times in all.
_ATTEMPTS = 3
_TURN_S = 0.5


def conduct(
    coordinator: Coordinator,
    exchange: Exchange,
    told: Callable[[Round], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Drive a job from wherever it is to its end.

    Args:
        coordinator: the job's state.
        exchange: what carries requests and replies.
        told: called with every round that ended.
        clock: seconds.

    Raises:
        JobFailed: too few sites for a round, however often it was begun.
        Cancelled: the job was told to stop.
    """
    conductor = _Conductor(coordinator, exchange, clock)
    conductor.rounds(told)
    conductor.gather_again()
    conductor.score_candidates()
    conductor.end()


def conduct_rounds(
    coordinator: Coordinator, exchange: Exchange, told: Callable[[Round], None] | None = None
) -> None:
    """The rounds of :func:`conduct` alone: nothing is chosen, exported or published."""
    _Conductor(coordinator, exchange, time.monotonic).rounds(told)


class _Conductor:
    """The sites of a job as they are now."""

    def __init__(
        self, coordinator: Coordinator, exchange: Exchange, clock: Callable[[], float]
    ) -> None:
        self._job, self._coordinator, self._exchange = coordinator.job, coordinator, exchange
        self._clock = clock
        # The visit in which a site was greeted, welcomed or turned away.
        self._greeted: dict[str, str] = {}
        self._welcome: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._asked: dict[str, float] = {}
        self._done: set[str] = set()
        # Sites that went away in this round.
        self._lost: set[str] = set()

    def rounds(self, told: Callable[[Round], None] | None) -> None:
        """All rounds that are left."""
        while not self._coordinator.trained:
            made = self._round()
            if told:
                told(made)

    def _round(self) -> Round:
        """One round, begun anew where it does not find enough sites."""
        while True:
            self._asked, self._done, self._lost = {}, set(), set()
            if self._gather():
                made = self._coordinator.close_round()
                _LOG.info("round %s ended after %.1f s", made.label, made.seconds)
                return made
            attempt = self._coordinator.attempt
            self._coordinator.repeat_round()
            if attempt >= _ATTEMPTS:
                raise JobFailed(
                    f"Round {self._coordinator.round + 1} found fewer than {self._job.min_sites} "
                    f"sites in {attempt} attempts of {self._job.round_timeout_s:.0f} s; look at "
                    "the sites' logs."
                )

    def gather_again(self) -> None:
        """Greet those that a server's last process knew, and who came back since the last round.

        Waits for as many sites as make a round, as long as the grace.
        """
        start = self._clock()
        while self._clock() - start < self._job.grace_s:
            present = self._exchange.present()
            settled = self._welcome.items() | self._refused.items()
            if len(self._welcomed()) >= self._job.min_sites and present.items() <= settled:
                return
            self._meet()
            reply = self._exchange.receive(_TURN_S)
            if reply is not None:
                self._take(reply)

    def score_candidates(self) -> None:
        """Have every site score every candidate that it has not scored."""
        asked = {site: self._coordinator.candidates.wanted(site) for site in self._welcomed()}
        wanted = {site: names for site, names in asked.items() if names}
        for site, names in wanted.items():
            self._exchange.ask(site, self._coordinator.score_request(names.pop()))

        def take(reply: Reply) -> bool:
            if reply.body is None:
                return True
            try:
                self._coordinator.accept_scores(reply.site, reply.body)
            except (UpdateRefused, MessageRefused) as error:
                _LOG.warning("%s gave no scores: %s", reply.site, error.message)
            names = wanted[reply.site]
            if names:
                self._exchange.ask(reply.site, self._coordinator.score_request(names.pop()))
                return False
            return True

        self._collect(set(wanted), take)
        self._coordinator.save()

    def end(self) -> None:
        """Choose the global model, hand it to the sites, write the results."""
        request = finish(self._coordinator)
        sites = self._welcomed()
        for site in sites:
            self._exchange.ask(site, request)
        self._collect(sites, lambda _: True)

    def _gather(self) -> bool:
        """Ask every site for its update; whether enough of them came."""
        start, enough = self._clock(), None
        while True:
            self._meet()
            reply = self._exchange.receive(_TURN_S)
            if reply is not None:
                self._take(reply)
            now = self._clock()
            if self._coordinator.updates >= self._job.min_sites:
                enough = now if enough is None else enough
                if not self._outstanding() or now - enough >= self._job.grace_s:
                    self._leave_late()
                    return True
            elif now - start >= self._job.round_timeout_s:
                self._leave_late()
                return False

    def _meet(self) -> None:
        """Greet who is new, ask who is welcome and was not asked in this round."""
        if self._exchange.stopped():
            raise Cancelled("The job was told to stop.")
        present = self._exchange.present()
        for site, visit in present.items():
            if self._refused.get(site) == visit:
                continue
            if self._greeted.get(site) != visit:
                self._greet(site, visit)
            elif self._coordinator.trained:
                continue
            elif self._welcome.get(site) == visit and site not in self._asked:
                self._ask(site)
        for site in set(self._asked) - set(present) - self._done:
            # Gone without a word; should it come back, it is greeted as new.
            self._forget(site, FAILED)

    def _greet(self, site: str, visit: str) -> None:
        others = ({*self._coordinator.sites} | {*self._greeted}) - {site}
        if len(others) >= self._job.max_sites:
            _LOG.warning("%s is one site too many; %d are in", site, self._job.max_sites)
            self._refused[site] = visit
            return
        if site in self._asked and site not in self._done:
            self._forget(site, FAILED)
        self._greeted[site] = visit
        self._exchange.ask(site, self._coordinator.hello())

    def _ask(self, site: str) -> None:
        self._asked[site] = self._clock()
        self._exchange.ask(site, self._coordinator.request(site))
        self._say(site)

    def _forget(self, site: str, state: str) -> None:
        self._asked.pop(site, None)
        self._greeted.pop(site, None)
        self._welcome.pop(site, None)
        self._lost.add(site)
        self._coordinator.missed(site, state)
        self._say(site)

    def _take(self, reply: Reply) -> None:
        """A reply in a round: to a greeting, or an update."""
        if self._greeted.get(reply.site) != reply.visit:
            return
        if reply.body is None:
            self._fail(reply)
        elif self._welcome.get(reply.site) != reply.visit:
            self._take_greeting(reply)
        elif reply.site in self._asked and reply.site not in self._done:
            self._take_update(reply)

    def _fail(self, reply: Reply) -> None:
        """Its process failed at the request; it is asked again in the next round."""
        if self._welcome.get(reply.site) == reply.visit:
            self._done.add(reply.site)
            self._asked.setdefault(reply.site, self._clock())
        else:
            self._refused[reply.site] = reply.visit
        self._coordinator.missed(reply.site)
        self._say(reply.site)

    def _take_greeting(self, reply: Reply) -> None:
        assert reply.body is not None
        try:
            self._coordinator.welcome(reply.site, reply.body)
        except (UpdateRefused, MessageRefused) as error:
            _LOG.warning("%s does not join: %s", reply.site, error.message)
            self._refused[reply.site] = reply.visit
            self._coordinator.missed(
                reply.site, f"refused: {error.details.get('code', error.code)}"
            )
            return
        self._welcome[reply.site] = reply.visit

    def _take_update(self, reply: Reply) -> None:
        assert reply.body is not None
        seconds = self._clock() - self._asked[reply.site]
        try:
            self._coordinator.accept(reply.site, reply.body, seconds)
        except MessageRefused:
            # Its disk lost what the difference refers to; whole weights mend that.
            self._ask(reply.site)
            return
        except UpdateRefused as error:
            _LOG.warning("update refused: %s", error.message)
        self._done.add(reply.site)
        self._say(reply.site)

    def _outstanding(self) -> set[str]:
        """Sites whose update of this round may still come, those that may come back among them."""
        present = self._exchange.present()
        barred = {site for site, visit in self._refused.items() if present.get(site) == visit}
        return {*present, *self._asked, *self._lost} - barred - self._done

    def _leave_late(self) -> None:
        """Give up on those that are still at it."""
        for site in set(self._asked) - self._done:
            self._exchange.withdraw(site)
            gone = site not in self._exchange.present()
            self._coordinator.missed(site, FAILED if gone else LATE)
            self._say(site)

    def _welcomed(self) -> set[str]:
        present = self._exchange.present()
        return {site for site, visit in self._welcome.items() if present.get(site) == visit}

    def _collect(self, sites: set[str], take: Callable[[Reply], bool]) -> None:
        """Wait for sites until each is done or gone, or a round's time is over."""
        start = self._clock()
        while sites and self._clock() - start < self._job.round_timeout_s:
            if self._exchange.stopped():
                raise Cancelled("The job was told to stop.")
            reply = self._exchange.receive(_TURN_S)
            if reply is not None and reply.site in sites and take(reply):
                sites.discard(reply.site)
            sites &= self._welcomed()

    def _say(self, site: str) -> None:
        if self._coordinator.trained:
            return
        number = self._coordinator.round + 1
        _LOG.info("%s", line(number, self._job.rounds, self._coordinator.entry(site)))

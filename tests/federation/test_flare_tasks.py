"""Requests as the engine's tasks: one at a time a site, late and foreign replies dropped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from nvflare.apis.client import Client
from nvflare.apis.controller_spec import ClientTask, Task, TaskCompletionStatus
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from federation.exchange import Reply
from federation.flare.controller import Tasks
from federation.flare.muster import GONE, VISIT
from federation.flare.package import REPLY, REQUEST


class Engine:
    """The engine's roll; counts how often it was called."""

    def __init__(self, *clients: Client) -> None:
        self.clients, self.calls = list(clients), 0

    def sync_clients_from_main_process(self) -> None:
        self.calls += 1

    def get_clients(self) -> list[Client]:
        return self.clients

    @contextlib.contextmanager
    def new_context(self) -> Iterator[FLContext]:
        yield FLContext()


class Controller:
    """Holds what was sent, and hands it to a site that fetches it."""

    def __init__(self) -> None:
        self.sent: list[tuple[Task, list[str]]] = []

    def send(self, task: Task, fl_ctx: FLContext, targets: list[str]) -> None:
        self.sent.append((task, targets))

    def cancel_task(self, task: Task, fl_ctx: FLContext | None = None) -> None:
        task.completion_status = TaskCompletionStatus.CANCELLED

    def fetch(self, client: Client) -> ClientTask | None:
        """The site's next task, as the engine gives it."""
        for task, targets in self.sent:
            if client.name in targets and task.completion_status is None:
                given = ClientTask(client, task)
                task.before_task_sent_cb(given, FLContext())
                if task.completion_status is None:
                    return given
        return None


def client(name: str, visit: str = "", gone: bool = False) -> Client:
    made = Client(name, f"token-{name}-{visit}")
    if visit:
        made.set_prop(VISIT, visit)
    made.set_prop(GONE, gone)
    return made


def answer(task: ClientTask, body: Any) -> None:
    task.result = Shareable()
    if body is not None:
        task.result[REPLY] = body
    task.task.result_received_cb(task, FLContext())


@pytest.fixture
def engine() -> Engine:
    return Engine(client("c1", "a"), client("c2", "b"), client("c3", "c", gone=True))


@pytest.fixture
def controller() -> Controller:
    return Controller()


@pytest.fixture
def tasks(engine: Engine, controller: Controller) -> Tasks:
    return Tasks(controller, engine, Signal())  # type: ignore[arg-type]


def test_who_is_gone_is_not_present(tasks: Tasks) -> None:
    assert tasks.present().keys() == {"c1", "c2"}


def test_a_visit_tells_starts_apart_and_is_no_token(tasks: Tasks, engine: Engine) -> None:
    before = tasks.present()["c1"]
    assert "token" not in before
    engine.clients[0] = client("c1", "another")
    time.sleep(1.05)
    assert tasks.present()["c1"] != before


def test_the_roll_is_called_once_a_second(tasks: Tasks, engine: Engine) -> None:
    for _ in range(50):
        tasks.present()
    assert engine.calls == 1


def test_a_request_reaches_its_site_and_the_reply_comes_back(
    tasks: Tasks, controller: Controller, engine: Engine
) -> None:
    visits = tasks.present()
    tasks.ask("c1", b"do")
    assert controller.fetch(engine.clients[1]) is None
    task = controller.fetch(engine.clients[0])
    assert task is not None
    assert task.task.data[REQUEST] == b"do"
    answer(task, b"done")
    assert tasks.receive(0) == Reply("c1", visits["c1"], b"done")
    assert tasks.receive(0) is None
    # The engine keeps no second copy of a model.
    assert task.result is None


@pytest.mark.parametrize("body", [None, "text", 7])
def test_what_is_no_bytes_is_a_failure(
    tasks: Tasks, controller: Controller, engine: Engine, body: Any
) -> None:
    tasks.present()
    tasks.ask("c1", b"do")
    task = controller.fetch(engine.clients[0])
    assert task is not None
    answer(task, body)
    reply = tasks.receive(0)
    assert reply is not None
    assert reply.body is None


@pytest.mark.parametrize("again", [True, False])
def test_a_withdrawn_request_is_neither_sent_nor_answered(
    tasks: Tasks, controller: Controller, engine: Engine, again: bool
) -> None:
    tasks.present()
    tasks.ask("c1", b"first")
    first = controller.fetch(engine.clients[0])
    assert first is not None
    if again:
        tasks.ask("c1", b"second")
    else:
        tasks.withdraw("c1")
    answer(first, b"late")
    assert tasks.receive(0) is None
    second = controller.fetch(engine.clients[0])
    assert (second is not None) == again
    if second is not None:
        assert second.task.data[REQUEST] == b"second"
        answer(second, b"in time")
        reply = tasks.receive(0)
        assert reply is not None
        assert reply.body == b"in time"


def test_a_new_process_is_not_given_what_the_old_one_was_asked(
    tasks: Tasks, controller: Controller, engine: Engine
) -> None:
    tasks.present()
    tasks.ask("c1", b"do")
    engine.clients[0] = client("c1", "another")
    assert controller.fetch(engine.clients[0]) is None


def test_withdrawing_nothing_is_no_error(tasks: Tasks) -> None:
    tasks.withdraw("c9")


def test_the_engines_abort_is_seen() -> None:
    stop = Signal()
    tasks = Tasks(Controller(), Engine(), stop)  # type: ignore[arg-type]
    assert not tasks.stopped()
    stop.trigger(True)
    assert tasks.stopped()

"""Clients that never end what they say, trickle, break off or go away; nothing of them stays."""

from __future__ import annotations

import random
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.trials.row import Row
from benchmarks.trials.scans import SHAPES, scan
from benchmarks.trials.tree import Tree, until

Rude = Callable[[socket.socket, random.Random], None]

EACH = 10
_HEAD = b"POST /v1/segment HTTP/1.1\r\nHost: 127.0.0.1\r\n"
_SIZE = 1 << 20
_LONG = _HEAD + f"Content-Length: {_SIZE}\r\n\r\n".encode()
_FORM = (
    _HEAD + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1048576\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="ct"; filename="a"\r\n\r\n'
)
# The service is given that long, beyond its own patience, to let go.
_GRACE_S = 20.0
_TRICKLE_S = 0.3


def clients(service: Tree, seed: int, each: int = EACH) -> Row:
    """So many of every kind at a time, while somebody polite is served.

    Args:
        service: with a patience of 2 seconds (``ISLET_STALL_S``).
        seed: of lengths and moments.
        each: connections of a kind.
    """
    small = scan(SHAPES[0])
    service.ask("/segment", small.body)
    before = service.files(), service.sockets(), service.memory_mb()
    tried = len(KINDS) * each
    polite: list[float] = []
    with ThreadPoolExecutor(tried) as pool:
        left = [
            pool.submit(_treated, service, kind, random.Random(f"{seed}-{kind.__name__}-{n}"))
            for kind in KINDS
            for n in range(each)
        ]
        while not all(one.done() for one in left):
            began = time.monotonic()
            assert service.ask_once("/segment", small.body)[0] == 200
            polite.append(time.monotonic() - began)
            time.sleep(0.2)
    survived = sum(one.result() for one in left)
    left_over = _left_over(service, *before[:2])
    if left_over:
        survived = 0
    growth = service.memory_mb() / before[2] - 1
    return Row(
        "slow-loris, half-sent bodies, aborted uploads",
        tried,
        survived,
        tried - survived,
        f"somebody polite waited {max(polite):.2f} s at most; left over: "
        f"{left_over or 'nothing'}; memory {100 * growth:+.1f}%",
    )


def _treated(service: Tree, kind: Rude, chance: random.Random) -> bool:
    """Whether a rude client's connection is closed in the end."""
    with socket.create_connection(("127.0.0.1", service.port), 5) as to:
        try:
            kind(to, chance)
        except OSError:
            return True
        return _closed(to)


def _closed(to: socket.socket) -> bool:
    """Whether the other side lets go in time; what it says before is read."""
    if to.fileno() < 0:
        return True
    to.settimeout(2 + _GRACE_S)
    try:
        while to.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def _left_over(service: Tree, files: set[str], sockets: int) -> str:
    """What is not soon as it was, of files, sockets and jobs."""
    looks: dict[str, Callable[[], bool]] = {
        "files": lambda: service.files() <= files,
        "sockets": lambda: service.sockets() <= sockets,
        "jobs": lambda: not service.listed("queued") and not service.listed("running"),
    }
    found = []
    for name, gone in looks.items():
        try:
            until(gone, _GRACE_S)
        except TimeoutError:
            found.append(name)
    return ", ".join(found)


def _silent(_: socket.socket, __: random.Random) -> None:
    """Says nothing at all."""


def _endless_head(to: socket.socket, _: random.Random) -> None:
    to.sendall(_HEAD)
    _trickle(to, b"X-A: b\r\n")


def _head_after_answer(to: socket.socket, _: random.Random) -> None:
    to.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    to.recv(65536)
    to.sendall(_HEAD)
    _trickle(to, b"X-A: b\r\n")


def _trickling_body(to: socket.socket, _: random.Random) -> None:
    to.sendall(_LONG)
    _trickle(to, b"x")


def _half_body(to: socket.socket, chance: random.Random) -> None:
    to.sendall(_LONG + bytes(chance.randrange(1, _SIZE)))


def _half_form(to: socket.socket, chance: random.Random) -> None:
    to.sendall(_FORM + bytes(chance.randrange(1, _SIZE // 2)))


def _breaks_off(to: socket.socket, chance: random.Random) -> None:
    to.sendall(_LONG + bytes(chance.randrange(1, _SIZE)))
    to.close()


def _resets(to: socket.socket, chance: random.Random) -> None:
    to.sendall(_LONG + bytes(chance.randrange(1, _SIZE)))
    time.sleep(chance.uniform(0, 0.3))
    to.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    to.close()


def _half_form_ends(to: socket.socket, chance: random.Random) -> None:
    to.sendall(_FORM + bytes(chance.randrange(1, _SIZE // 2)))
    to.shutdown(socket.SHUT_WR)


def _half_chunk(to: socket.socket, _: random.Random) -> None:
    to.sendall(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + bytes(100))


def _goes_away(to: socket.socket, chance: random.Random) -> None:
    """Sends all of a CT and does not wait for the answer."""
    body = scan(SHAPES[2]).body
    to.sendall(_HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    time.sleep(chance.uniform(0, 0.2))
    to.close()


def _trickle(to: socket.socket, piece: bytes) -> None:
    """Send a piece now and then until the other side lets go, or is far too patient."""
    end = time.monotonic() + 2 + _GRACE_S
    while time.monotonic() < end:
        to.sendall(piece)
        if select.select([to], [], [], _TRICKLE_S)[0]:
            return


KINDS: Sequence[Rude] = (
    _silent,
    _endless_head,
    _head_after_answer,
    _trickling_body,
    _half_body,
    _half_form,
    _breaks_off,
    _resets,
    _half_form_ends,
    _half_chunk,
    _goes_away,
)

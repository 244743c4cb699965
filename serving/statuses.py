"""The HTTP status of every error, decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator

from imaging import errors
from imaging.errors import IsletError

# The first class that fits decides, so subclasses come before their parents.
_TABLE: tuple[tuple[type[IsletError], int], ...] = (
    (errors.UnsupportedFormat, 415),
    (errors.InputTooLarge, 413),
    (errors.InputError, 422),
    (errors.BadParameter, 400),
    (errors.ModelNotFound, 404),
    (errors.DeviceUnavailable, 409),
    (errors.ServiceBusy, 429),
    # Nobody is there to read it; the number is nginx's, for logs and metrics.
    (errors.Cancelled, 499),
    # A broken model in the store is the operator's fault, not the caller's.
    (IsletError, 500),
)

# What Starlette's router answers by itself.
ROUTER_CODES = {404: "not_found", 405: "method_not_allowed"}
INTERNAL = "internal_error"


def status_of(error: IsletError | type[IsletError]) -> int:
    """HTTP status of an error, or of a class of errors."""
    kind = error if isinstance(error, type) else type(error)
    return next(status for parent, status in _TABLE if issubclass(kind, parent))


def codes() -> dict[str, int]:
    """Every code that can stand in an error body, to its status."""
    found = {kind.code: status_of(kind) for kind in _tree(errors.InputError)}
    for root in (errors.BadParameter, errors.ModelError, errors.DeviceUnavailable):
        found |= {kind.code: status_of(kind) for kind in _tree(root)}
    found[errors.ServiceBusy.code] = status_of(errors.ServiceBusy)
    found |= {code: status for status, code in ROUTER_CODES.items()}
    return found | {INTERNAL: 500}


def _tree(root: type[IsletError]) -> Iterator[type[IsletError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)

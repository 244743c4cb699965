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
    (errors.RecordsAway, 503),
    (errors.ServiceBusy, 429),
    (errors.JobNotFound, 404),
    (errors.JobUnfinished, 409),
    (errors.KeyReused, 409),
    (errors.TimedOut, 504),
    (errors.DiskFull, 507),
    (errors.DiskReadOnly, 507),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.ProviderAway, 503),
    (errors.SlowBody, 408),
    (errors.ServerNotAllowed, 403),
    (errors.NoSuitableSeries, 422),
    (errors.PacsError, 502),
    # As a status for who asks for the result of a job that was cancelled.
    (errors.Cancelled, 410),
    # A broken model in the store, damaged records and a lost worker are the operator's fault, not
    # the caller's.
    (IsletError, 500),
)

# Roots of the errors that a request can meet; the rest of the tree belongs to other floors.
_ROOTS: tuple[type[IsletError], ...] = (
    errors.InputError,
    errors.BadParameter,
    errors.ModelError,
    errors.DeviceUnavailable,
    errors.ServiceBusy,
    errors.JobError,
    errors.WorkerLost,
    errors.OutOfMemory,
    errors.TimedOut,
    errors.DiskFull,
    errors.DiskReadOnly,
    errors.RecordsDamaged,
    errors.AccessError,
    errors.PacsError,
    errors.Cancelled,
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
    found = {kind.code: status_of(kind) for root in _ROOTS for kind in _tree(root)}
    found |= {code: status for status, code in ROUTER_CODES.items()}
    return found | {INTERNAL: 500}


def _tree(root: type[IsletError]) -> Iterator[type[IsletError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)

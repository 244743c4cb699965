"""What an operator may set, all of it in environment variables ``ISLET_*``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from imaging.errors import BadParameter
from imaging.limits import DEFAULT_LIMITS, MIB, Limits
from serving.engine import DEVICES


@dataclass(frozen=True)
class Settings:
    """Of one service process. The store is ``models.store.default_store`` (``ISLET_STORE``).

    Attributes:
        model: reference used when a request names none; ready means that it is loaded.
        device: ``auto``, ``cpu`` or ``cuda``, used when a request names none.
        threads: of one inference; ``None`` takes the usable cores.
        limits: on one upload.
        concurrency: segmentations at a time in one worker.
        waiting: requests that may wait for a turn, beyond those; one more is refused (429).
        keep_models: loaded sessions kept in memory.
        workers: processes of the service.

    Raises:
        BadParameter: a value outside its range.
    """

    model: str = "starter"
    device: str = "auto"
    threads: int | None = None
    limits: Limits = field(default=DEFAULT_LIMITS)
    concurrency: int = 1
    waiting: int = 4
    keep_models: int = 3
    workers: int = 1

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise BadParameter(
                f"ISLET_DEVICE is {self.device!r}; use one of {', '.join(DEVICES)}.",
                device=self.device,
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read ``ISLET_MODEL``, ``ISLET_DEVICE``, ``ISLET_THREADS``, ``ISLET_MAX_UPLOAD_MB``,
        ``ISLET_MAX_UNPACKED_MB``, ``ISLET_MAX_FILES``, ``ISLET_MAX_VOXELS``,
        ``ISLET_CONCURRENCY``, ``ISLET_WAITING``, ``ISLET_KEEP_MODELS`` and ``ISLET_WORKERS``.

        Raises:
            BadParameter: a value that is no whole number, or outside its range.
        """
        env = os.environ if environment is None else environment
        mib = DEFAULT_LIMITS.max_bytes // MIB, DEFAULT_LIMITS.max_unpacked_bytes // MIB
        return cls(
            model=env.get("ISLET_MODEL") or cls.model,
            device=env.get("ISLET_DEVICE") or cls.device,
            threads=_whole(env, "ISLET_THREADS", 0) or None,
            limits=Limits(
                max_bytes=_whole(env, "ISLET_MAX_UPLOAD_MB", mib[0], 1) * MIB,
                max_unpacked_bytes=_whole(env, "ISLET_MAX_UNPACKED_MB", mib[1], 1) * MIB,
                max_files=_whole(env, "ISLET_MAX_FILES", DEFAULT_LIMITS.max_files, 1),
                max_voxels=_whole(env, "ISLET_MAX_VOXELS", DEFAULT_LIMITS.max_voxels, 1),
            ),
            concurrency=_whole(env, "ISLET_CONCURRENCY", cls.concurrency, 1),
            waiting=_whole(env, "ISLET_WAITING", cls.waiting),
            keep_models=_whole(env, "ISLET_KEEP_MODELS", cls.keep_models, 1),
            workers=_whole(env, "ISLET_WORKERS", cls.workers, 1),
        )


def _whole(env: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise BadParameter(
            f"{name} is {text[:64]!r}; set a whole number of at least {least}.", variable=name
        )
    return int(text)

"""What an operator may set, all of it in environment variables ``ISLET_*``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imaging.errors import BadParameter
from imaging.limits import DEFAULT_LIMITS, MIB, Limits
from serving.engines import DEVICES, RUNTIMES

_HOME = Path.home() / ".islet"
# Attributes of Settings that are files or folders.
_PATHS = ("spool", "tokens", "oidc", "audit", "pacs", "rules")

# Variables that name a file or a folder, relative to where the command was given.
PATH_VARIABLES = (
    "ISLET_SPOOL",
    "ISLET_TOKENS",
    "ISLET_OIDC",
    "ISLET_AUDIT",
    "ISLET_PACS",
    "ISLET_RULES",
)


@dataclass(frozen=True)
class Bounds:
    """On who asks. Those on what an upload holds are ``imaging.limits.Limits``.

    Attributes:
        stall_s: seconds without a byte of a request's body, after which it is given up.
        slowest: bytes a second that a body must bring over ``stall_s`` seconds of waiting for it.
        at_once: requests of one subject that may be under way.
        query_bytes: longest query.
        wrong_tokens: that an address may send in ``window_s`` seconds.
        window_s: how long a wrong token is remembered.

    Raises:
        BadParameter: one below 1.
    """

    stall_s: int = 60
    slowest: int = 1024
    at_once: int = 128
    query_bytes: int = 8192
    wrong_tokens: int = 20
    window_s: int = 60

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise BadParameter(f"{name} is {value}; set a whole number of at least 1.")


@dataclass(frozen=True)
class Settings:
    """Of one service. The store of models is ``models.store.default_store`` (``ISLET_STORE``).

    Attributes:
        model: reference used when a request names none; ready means that a worker has loaded it.
        device: ``auto``, ``cpu`` or ``cuda``, used when a request names none.
        threads: of one inference; ``None`` takes the usable cores.
        runtime: of models on a CPU, of ``serving.engines.RUNTIMES``.
        limits: on one upload.
        spool: folder of the jobs' inputs and results; several hosts share it where they share a
            database.
        database: URL of the jobs' records and queue, ``postgresql://...``; ``None`` keeps both in
            files of the spool.
        workers: processes of this host that segment, each one job at a time; 0 leaves the work to
            other hosts.
        queue: jobs that may wait; one more is refused (429).
        keep_hours: after its end a job and its result are kept that long.
        job_seconds: a job may run that long.
        model_memory_mb: loaded models of one worker together; the least recently used ones go.
        model_idle_s: a model that nobody asked for that long is unloaded.
        tokens: TOML file of bearer tokens and roles (``serving.guard``).
        oidc: TOML file of the identity provider whose tokens are taken.
        audit: file that every request is noted in, a JSON line each.
        audit_addresses: whether the audit log holds those of clients.
        bounds: on who asks.
        pacs: TOML file of the archives that may be asked (``serving.pacs``).
        rules: TOML file of the rules that choose a series; ``None`` takes those that ship.

    Raises:
        BadParameter: a value outside its range.
    """

    model: str = "starter"
    device: str = "auto"
    threads: int | None = None
    runtime: str = "auto"
    limits: Limits = field(default=DEFAULT_LIMITS)
    spool: Path = _HOME / "spool"
    database: str | None = None
    workers: int = 1
    queue: int = 64
    keep_hours: int = 24
    job_seconds: int = 3600
    model_memory_mb: int = 4096
    model_idle_s: int = 3600
    tokens: Path | None = None
    oidc: Path | None = None
    audit: Path | None = None
    audit_addresses: bool = True
    bounds: Bounds = field(default_factory=Bounds)
    pacs: Path | None = None
    rules: Path | None = None

    def __post_init__(self) -> None:
        for name, known in (("device", DEVICES), ("runtime", RUNTIMES)):
            given = getattr(self, name)
            if given not in known:
                raise BadParameter(
                    f"ISLET_{name.upper()} is {given!r}; use one of {', '.join(known)}.",
                    **{name: given},
                )
        if self.database is not None and not self.database.startswith("postgresql://"):
            raise BadParameter(
                "ISLET_DATABASE must be a postgresql:// URL, or unset for files in the spool."
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Read the attributes from ``ISLET_MODEL``, ``ISLET_DEVICE``, ``ISLET_THREADS``,
        ``ISLET_RUNTIME``, ``ISLET_SPOOL``, ``ISLET_DATABASE``, ``ISLET_WORKERS``, ``ISLET_QUEUE``,
        ``ISLET_KEEP_HOURS``, ``ISLET_JOB_SECONDS``, ``ISLET_MODEL_MEMORY_MB``,
        ``ISLET_MODEL_IDLE_S``, ``ISLET_TOKENS``, ``ISLET_OIDC``, ``ISLET_AUDIT``,
        ``ISLET_AUDIT_ADDRESSES``, ``ISLET_PACS`` and ``ISLET_RULES``; the limits from
        ``ISLET_MAX_UPLOAD_MB``, ``ISLET_MAX_UNPACKED_MB``, ``ISLET_MAX_FILES`` and
        ``ISLET_MAX_VOXELS``; the bounds from ``ISLET_STALL_S``, ``ISLET_SLOWEST``,
        ``ISLET_REQUESTS_EACH``, ``ISLET_QUERY_BYTES``, ``ISLET_WRONG_TOKENS`` and
        ``ISLET_WRONG_TOKENS_S``.

        Raises:
            BadParameter: a value that is no whole number, or outside its range.
        """
        env = os.environ if environment is None else environment
        mib = DEFAULT_LIMITS.max_bytes // MIB, DEFAULT_LIMITS.max_unpacked_bytes // MIB
        return cls(
            model=env.get("ISLET_MODEL") or cls.model,
            device=env.get("ISLET_DEVICE") or cls.device,
            threads=_whole(env, "ISLET_THREADS", 0) or None,
            runtime=env.get("ISLET_RUNTIME") or cls.runtime,
            limits=Limits(
                max_bytes=_whole(env, "ISLET_MAX_UPLOAD_MB", mib[0], 1) * MIB,
                max_unpacked_bytes=_whole(env, "ISLET_MAX_UNPACKED_MB", mib[1], 1) * MIB,
                max_files=_whole(env, "ISLET_MAX_FILES", DEFAULT_LIMITS.max_files, 1),
                max_voxels=_whole(env, "ISLET_MAX_VOXELS", DEFAULT_LIMITS.max_voxels, 1),
            ),
            spool=_path(env, "ISLET_SPOOL") or cls.spool,
            database=env.get("ISLET_DATABASE") or None,
            workers=_whole(env, "ISLET_WORKERS", cls.workers),
            queue=_whole(env, "ISLET_QUEUE", cls.queue, 1),
            keep_hours=_whole(env, "ISLET_KEEP_HOURS", cls.keep_hours),
            job_seconds=_whole(env, "ISLET_JOB_SECONDS", cls.job_seconds, 1),
            model_memory_mb=_whole(env, "ISLET_MODEL_MEMORY_MB", cls.model_memory_mb, 1),
            model_idle_s=_whole(env, "ISLET_MODEL_IDLE_S", cls.model_idle_s, 1),
            tokens=_path(env, "ISLET_TOKENS"),
            oidc=_path(env, "ISLET_OIDC"),
            audit=_path(env, "ISLET_AUDIT"),
            audit_addresses=_whole(env, "ISLET_AUDIT_ADDRESSES", 1) > 0,
            bounds=Bounds(
                stall_s=_whole(env, "ISLET_STALL_S", Bounds.stall_s, 1),
                slowest=_whole(env, "ISLET_SLOWEST", Bounds.slowest, 1),
                at_once=_whole(env, "ISLET_REQUESTS_EACH", Bounds.at_once, 1),
                query_bytes=_whole(env, "ISLET_QUERY_BYTES", Bounds.query_bytes, 1),
                wrong_tokens=_whole(env, "ISLET_WRONG_TOKENS", Bounds.wrong_tokens, 1),
                window_s=_whole(env, "ISLET_WRONG_TOKENS_S", Bounds.window_s, 1),
            ),
            pacs=_path(env, "ISLET_PACS"),
            rules=_path(env, "ISLET_RULES"),
        )

    def to_json(self) -> str:
        """One line of JSON, for a worker's process."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> Settings:
        """The settings of :meth:`to_json`."""
        raw: dict[str, Any] = json.loads(text)
        paths = {name: Path(raw[name]) for name in _PATHS if raw[name] is not None}
        limits, bounds = Limits(**raw["limits"]), Bounds(**raw["bounds"])
        return cls(**raw | paths | {"limits": limits, "bounds": bounds})


def _path(env: Mapping[str, str], name: str) -> Path | None:
    return Path(env[name]).expanduser().resolve() if env.get(name) else None


def _whole(env: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise BadParameter(
            f"{name} is {text[:64]!r}; set a whole number of at least {least}.", variable=name
        )
    return int(text)

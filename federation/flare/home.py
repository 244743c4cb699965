"""What a site is on its own machine: ``local/islet.json`` of its kit, and its policy beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.home import Home
from federation.policy import Policy
from imaging.errors import BadParameter
from imaging.files import write_whole
from models.store import default_store

STATE = "islet"
"""Folder of a kit, with one folder of state for each job."""
_SETTINGS = Path("local") / "islet.json"
_POLICY = Path("local") / "policy.toml"
_TRACKING = Path("local") / "tracking.json"


@dataclass(frozen=True)
class Settings:
    """A site's own settings; none of them ever leaves it.

    Attributes:
        name: of the site.
        data: folders of its data sets.
        store: folder that the trained models are published in; empty for the default store.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of a training.
    """

    name: str
    data: tuple[str, ...] = ()
    store: str = ""
    device: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise BadParameter(f"threads must be at least 1, not {self.threads}.")


def read_settings(kit: Path) -> Settings:
    """The settings of a site's kit.

    Raises:
        BadParameter: the folder is no site's kit, or its settings are damaged.
    """
    path = kit / _SETTINGS
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        return Settings(**raw | {"data": tuple(raw["data"])})
    except FileNotFoundError:
        raise BadParameter(
            f"{kit} is no site's kit; `islet federate provision` makes them."
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise BadParameter(f"{path} is damaged ({error}); mend it or delete the kit.") from error


def write_settings(kit: Path, settings: Settings) -> None:
    """Keep the settings in the kit."""
    raw = json.dumps(dataclasses.asdict(settings), indent=2)
    write_whole(kit / _SETTINGS, raw.encode() + b"\n")


def change_settings(
    kit: Path,
    data: Sequence[Path] = (),
    store: Path | None = None,
    policy: Path | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Settings:
    """The settings of a kit after what is given is changed; paths are kept absolute.

    Raises:
        BadParameter: what :func:`read_settings` and ``Policy.read`` refuse.
    """
    old = read_settings(kit)
    new = Settings(
        name=old.name,
        data=tuple(str(p.resolve()) for p in data) or old.data,
        store=str(store.resolve()) if store else old.store,
        device=device or old.device,
        threads=threads or old.threads,
    )
    if policy is not None:
        Policy.read(policy)
        if policy.resolve() != (kit / _POLICY).resolve():
            shutil.copyfile(policy, kit / _POLICY)
    write_settings(kit, new)
    return new


def keep_home(kit: Path, home: Home) -> None:
    """Make a home that of a kit's site; its folder of state is the kit's."""
    data = tuple(str(p.resolve()) for p in home.data)
    store = str(home.store.resolve())
    write_settings(kit, Settings(home.name, data, store, home.device, home.threads))
    rules = dataclasses.asdict(home.policy)
    lines = [
        f"{key} = {json.dumps(value) if isinstance(value, tuple) else value}"
        for key, value in rules.items()
    ]
    write_whole(kit / _POLICY, "\n".join(lines).encode() + b"\n")


def read_home(kit: Path) -> Home:
    """The home of a kit's site; what it keeps of jobs lies in the kit.

    Raises:
        BadParameter: settings or a policy that cannot be read.
    """
    settings, policy = read_settings(kit), kit / _POLICY
    return Home(
        name=settings.name,
        folder=kit / STATE,
        data=tuple(Path(p) for p in settings.data),
        store=Path(settings.store) if settings.store else default_store().root,
        policy=Policy.read(policy) if policy.exists() else Policy(),
        device=settings.device,
        threads=settings.threads,
    )


def write_tracking(kit: Path, names: Sequence[str], uri: str | None) -> None:
    """Keep in a server's kit where the curves of its jobs go."""
    write_whole(kit / _TRACKING, json.dumps([list(names), uri]).encode() + b"\n")


def read_tracking(kit: Path) -> tuple[tuple[str, ...], str | None]:
    """Trackers and address of a server's kit; none where none were named.

    Raises:
        BadParameter: a damaged file.
    """
    path = kit / _TRACKING
    if not path.exists():
        return (), None
    try:
        names, uri = json.loads(path.read_text())
        return tuple(map(str, names)), uri
    except (ValueError, TypeError) as error:
        raise BadParameter(
            f"{path} is damaged ({error}); start the server with --track."
        ) from error


def environment(threads: int) -> dict[str, str]:
    """The environment of a kit's processes: our code is found, threads are counted."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        # The engine's processes allocate large messages in many threads.
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "4"),
    }

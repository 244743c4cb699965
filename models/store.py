"""Versions and aliases of models on disk; publishing and moving an alias are atomic.

Layout: ``<root>/<name>/<version>/model.onnx`` and ``<root>/<name>/aliases/<alias>`` (a file that
holds a version). Every step that others can see is one rename, so a reader sees the old or the
new, never a half. The models that ship with Islet lie in ``models/released`` in the same layout
and are looked up after the writable root.

A reference is ``name`` (its ``live`` alias), ``name@3`` (a version) or ``name@alias``.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import BadParameter, ModelNotFound
from models.manifest import NAME_PATTERN, Manifest
from models.onnxfile import read_identity, read_manifest

RELEASED = Path(__file__).parent / "released"
DEFAULT_ALIAS = "live"
_ALIAS = re.compile(r"[a-z][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
# Inode, size, and the times of the last change of the content and of the file.
_State = tuple[int, int, int, int]


@dataclass(frozen=True)
class StoredModel:
    """One version of a model.

    Attributes:
        name, version: its identity in the store.
        path: the ``.onnx`` file.
        manifest: what it says of itself.
        sha256: of the whole file; what a report names.
    """

    name: str
    version: int
    path: Path
    manifest: Manifest
    sha256: str

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


class Store:
    """Models under a writable root, with read-only roots behind it.

    Args:
        root: where ``publish`` writes; created on the first publish.
        behind: read-only roots, looked up in this order after ``root``.
    """

    def __init__(self, root: Path, behind: Sequence[Path] = (RELEASED,)) -> None:
        self.root = Path(root)
        self._roots = (self.root, *map(Path, behind))
        # What was read of each file, and the state of the file it was read from.
        self._known: dict[Path, tuple[_State, tuple[Manifest, str]]] = {}

    def publish(self, onnx: Path, aliases: Sequence[str] = (DEFAULT_ALIAS,)) -> StoredModel:
        """Copy a self-describing ONNX file in as the next version and point the aliases at it.

        Raises:
            BadManifest, CorruptModel: the file is not what its manifest says; nothing is changed.
            BadParameter: an alias that is not a word; nothing is changed.

        Of several publishers at once every one gets a version of its own, and an alias stays with
        the one that moved it last.
        """
        manifest = read_manifest(onnx)
        for alias in aliases:
            _check_alias(alias)
        folder = self.root / manifest.name
        folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=folder))
        try:
            shutil.copyfile(onnx, staging / "model.onnx")
            _sync(staging / "model.onnx")
            read_manifest(staging / "model.onnx")
            staging.chmod(0o755)
            version = self._claim(staging, manifest.name)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        for alias in aliases:
            self.point(manifest.name, alias, version)
        return self.resolve(f"{manifest.name}@{version}")

    def point(self, name: str, alias: str, version: int) -> None:
        """Move (or make) an alias; atomic for readers.

        Raises:
            ModelNotFound: no such version.
            BadParameter: an alias that is not a word.
        """
        _check_alias(alias)
        self._folder(name, version)
        folder = self.root / name / "aliases"
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        with os.fdopen(handle, "w") as file:
            # mkstemp's own mode hides the alias from a service that runs as another user.
            os.fchmod(file.fileno(), 0o644)
            file.write(f"{version}\n")
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(folder / alias)

    def resolve(self, reference: str) -> StoredModel:
        """The model a reference names; its file is hashed again only when it has changed.

        Raises:
            ModelNotFound: no such name, version or alias; says what there is.
            BadManifest, CorruptModel: the file is no longer what was published.
        """
        name, _, tag = reference.partition("@")
        if _VERSION.fullmatch(tag):
            version: int | None = int(tag)
        else:
            version = self.aliases(name).get(tag or DEFAULT_ALIAS)
        if version is None:
            raise self._unknown(reference)
        path = self._folder(name, version) / "model.onnx"
        return StoredModel(name, version, path, *self._read(path))

    def names(self) -> list[str]:
        """Every model's name, sorted."""
        found = {
            p.name for root in self._roots if root.is_dir() for p in root.iterdir() if p.is_dir()
        }
        return sorted(n for n in found if self.versions(n))

    def versions(self, name: str) -> list[int]:
        """The versions of a model, ascending; empty when there is none."""
        return sorted(
            {
                int(p.name)
                for folder in self._folders(name)
                for p in folder.iterdir()
                if _VERSION.fullmatch(p.name) and (p / "model.onnx").is_file()
            }
        )

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to version, the writable root's winning over those behind it."""
        found: dict[str, int] = {}
        for folder in reversed(self._folders(name)):
            for path in (folder / "aliases").glob("*"):
                # The name first: half-written aliases come and go under other names.
                if _ALIAS.fullmatch(path.name) and path.is_file():
                    text = path.read_text(errors="replace").strip()
                    if _VERSION.fullmatch(text):
                        found[path.name] = int(text)
        return dict(sorted(found.items()))

    def _read(self, path: Path) -> tuple[Manifest, str]:
        # The state first: a file that changes while it is read is read again the next time.
        stat = path.stat()
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = self._known.get(path)
        if known is None or known[0] != state:
            known = (state, read_identity(path))
            self._known[path] = known
        return known[1]

    def _claim(self, staging: Path, name: str) -> int:
        """Rename the staged folder to the next free version, also against other publishers."""
        version = max(self.versions(name), default=0)
        while True:
            version += 1
            target = self.root / name / str(version)
            try:
                staging.rename(target)
            except OSError:
                # Another publisher was faster, or something else lies there: the next one.
                if not target.exists():
                    raise
            else:
                return version

    def _folders(self, name: str) -> list[Path]:
        """A model's folders that exist, the writable root's first; none for what is no name."""
        if not NAME_PATTERN.fullmatch(name):
            return []
        return [root / name for root in self._roots if (root / name).is_dir()]

    def _folder(self, name: str, version: int) -> Path:
        for folder in self._folders(name):
            if (folder / str(version) / "model.onnx").is_file():
                return folder / str(version)
        raise self._unknown(f"{name}@{version}")

    def _unknown(self, reference: str) -> ModelNotFound:
        known = [
            f"{n}@{tag}" for n in self.names() for tag in (*self.aliases(n), *self.versions(n))
        ]
        return ModelNotFound(
            f"There is no model {reference[:80]!r}; there are: {', '.join(known) or 'none'}.",
            model=reference[:80],
            known=known,
        )


def default_store() -> Store:
    """The store at ``$ISLET_STORE`` (else ``~/.islet/store``), the released models behind it."""
    root = os.environ.get("ISLET_STORE") or Path.home() / ".islet" / "store"
    return Store(Path(root))


def _check_alias(alias: str) -> None:
    if not _ALIAS.fullmatch(alias):
        raise BadParameter(
            f"{alias[:64]!r} is no alias; use a lower-case word such as live, global or site-2.",
            alias=alias[:64],
        )


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

"""Versions and aliases of models on disk; publishing and moving an alias are atomic.

Layout: ``<root>/<name>/<version>/model.onnx`` and ``<root>/<name>/aliases/<alias>`` (a file that
holds a version). Every step that others can see is one rename, so a reader sees the old or the
new, never a half. The models that ship with Islet lie in ``models/released`` in the same layout
and are looked up after the writable root.

A reference is ``name`` (its ``live`` alias), ``name@3`` (a version), ``name@alias``, or, where no
alias has that name, ``name@global``, ``name@local`` or ``name@central``: the one version whose
provenance has that scope.

A version that is removed leaves its folder with a note in it, so that no other model ever gets
its number.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import BadParameter, CorruptModel, ModelNotFound
from imaging.files import whole_file
from models.manifest import NAME_PATTERN, Manifest
from models.onnxfile import read_identity, read_manifest

RELEASED = Path(__file__).parent / "released"
DEFAULT_ALIAS = "live"
# Scopes of a provenance, which a reference may name.
SCOPES = ("global", "local", "central")
_NOTE = "removed"
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
        size: of the file, bytes.
    """

    name: str
    version: int
    path: Path
    manifest: Manifest
    sha256: str
    size: int

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    def read(self) -> bytes:
        """The bytes of the file, the same that the store hashed.

        Raises:
            ModelNotFound: the version was removed meanwhile.
            CorruptModel: the file is another one by now.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError as error:
            raise ModelNotFound(
                f"{self.reference} was removed from the store; use another version.",
                model=self.reference,
            ) from error
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise CorruptModel(
                f"The file of {self.reference} changed after it was hashed; publish it again.",
                model=self.reference,
            )
        return data


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
            check_alias(alias)
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
        check_alias(alias)
        self._folder(name, version)
        with self._changing(name) as folder:
            # Again: it may have been removed before the lock was ours.
            self._folder(name, version)
            with whole_file(folder / alias, durable=True) as file:
                file.write(f"{version}\n".encode())

    def unpoint(self, name: str, alias: str) -> None:
        """Remove an alias; the versions stay.

        Where a read-only root has an alias of that name, that one shows again.

        Raises:
            ModelNotFound: no such alias.
            BadParameter: an alias of a read-only root.
        """
        if alias not in self.aliases(name):
            raise self.unknown(f"{name}@{alias}")
        if not (self.root / name / "aliases" / alias).is_file():
            raise BadParameter(
                f"{name}@{alias} ships with Islet and cannot be removed; point it to another "
                "version.",
                alias=alias,
            )
        with self._changing(name) as folder:
            (folder / alias).unlink(missing_ok=True)

    def remove(self, name: str, version: int) -> None:
        """Remove a version for good; who has it in memory keeps it, its number is not used again.

        Raises:
            ModelNotFound: no such version.
            BadParameter: an alias names it, or it lies in a read-only root.
        """
        path = self._folder(name, version) / "model.onnx"
        if path.parent.parent.parent != self.root:
            raise BadParameter(
                f"{name}@{version} ships with Islet and cannot be removed.", version=version
            )
        with self._changing(name):
            named = [a for a, v in self.aliases(name).items() if v == version]
            if named:
                raise BadParameter(
                    f"{name}@{version} is what {', '.join(named)} points to; point it to another "
                    "version first.",
                    version=version,
                    aliases=named,
                )
            # The note first: an empty folder would be taken for a free number.
            with whole_file(path.parent / _NOTE, durable=True) as note:
                note.write(f"{_digest(path)}\n".encode())
            path.unlink(missing_ok=True)
        self._known.pop(path, None)

    def resolve(self, reference: str) -> StoredModel:
        """The model a reference names; its file is hashed again only when it has changed.

        Raises:
            ModelNotFound: no such name, version, alias or scope; says what there is.
            BadParameter: several models of a scope; names them.
            BadManifest, CorruptModel: the file is no longer what was published.
        """
        name, _, tag = reference.partition("@")
        tag = tag or DEFAULT_ALIAS
        if _VERSION.fullmatch(tag):
            return self._version(name, int(tag))
        version = self.aliases(name).get(tag)
        if version is None and tag in SCOPES:
            return self._of_scope(name, tag)
        if version is None:
            raise self.unknown(reference)
        if version not in self.versions(name):
            if self.aliases(name).get(tag) != version:
                # It moved, and what it named before was removed, between the two looks.
                return self.resolve(reference)
            raise ModelNotFound(
                f"{name}@{tag} points to version {version}, which is not in the store; point it "
                f"to one of {self.versions(name)}.",
                model=f"{name}@{tag}",
                version=version,
                known=[f"{name}@{v}" for v in self.versions(name)],
            )
        return self._version(name, version)

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

    def _version(self, name: str, version: int) -> StoredModel:
        path = self._folder(name, version) / "model.onnx"
        try:
            # The state first: a file that changes while it is read is read again the next time.
            stat = path.stat()
        except FileNotFoundError as error:
            raise self.unknown(f"{name}@{version}") from error
        return StoredModel(name, version, path, *self._read(path, stat), stat.st_size)

    def _of_scope(self, name: str, scope: str) -> StoredModel:
        """The one version of a scope: of those that an alias names, else of all there are.

        A site publishes its local model again and again and moves its alias; the older versions
        make no question of ``@local``.
        """
        for versions in (set(self.aliases(name).values()), set(self.versions(name))):
            models = [self._version(name, v) for v in sorted(versions & set(self.versions(name)))]
            found = [m for m in models if m.manifest.provenance.scope == scope]
            if len(found) == 1:
                return found[0]
            if found:
                break
        else:
            raise self.unknown(f"{name}@{scope}")
        named = {v: f"{name}@{alias}" for alias, v in self.aliases(name).items()}
        candidates = [named.get(m.version, m.reference) for m in found]
        raise BadParameter(
            f"{name} has {len(found)} models of scope {scope}; ask for one of "
            f"{', '.join(candidates)}.",
            model=f"{name}@{scope}",
            candidates=candidates,
        )

    def _read(self, path: Path, stat: os.stat_result) -> tuple[Manifest, str]:
        state = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        known = self._known.get(path)
        if known is None or known[0] != state:
            known = (state, read_identity(path))
            self._known[path] = known
        return known[1]

    @contextmanager
    def _changing(self, name: str) -> Iterator[Path]:
        """The folder of a model's aliases, while nobody else moves one or removes a version."""
        folder = self.root / name / "aliases"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

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
        raise self.unknown(f"{name}@{version}")

    def unknown(self, reference: str) -> ModelNotFound:
        """The error for a reference that names nothing; it says what there is."""
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


def check_alias(alias: str) -> None:
    """Raise ``BadParameter`` unless ``alias`` is a word that an alias may be."""
    if not _ALIAS.fullmatch(alias):
        raise BadParameter(
            f"{alias[:64]!r} is no alias; use a lower-case word such as live, global or site-2.",
            alias=alias[:64],
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.errors import BadManifest, BadParameter, CorruptModel, ModelNotFound
from models.manifest import Provenance
from models.store import Store, default_store
from tests.models.manifests import manifest
from tests.models.onnx_graphs import write


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.onnx")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", behind=())


def test_versions_grow_and_live_follows(store: Store, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        made = store.publish(write(tmp_path / "tiny.onnx", factor=version))
        assert (made.version, made.reference) == (version, f"tiny@{version}")
        assert store.resolve("tiny") == store.resolve("tiny@live") == made
        assert store.resolve("tiny@") == made
    assert store.versions("tiny") == [1, 2, 3]
    assert len({store.resolve(f"tiny@{v}").sha256 for v in (1, 2, 3)}) == 3


def test_aliases_move_and_versions_stay(store: Store, file: Path) -> None:
    store.publish(file, aliases=("global",))
    store.publish(file, aliases=("site-2", "live"))
    assert store.aliases("tiny") == {"global": 1, "live": 2, "site-2": 2}
    store.point("tiny", "live", 1)
    assert store.resolve("tiny").version == 1
    assert store.versions("tiny") == [1, 2]
    with pytest.raises(ModelNotFound):
        store.point("tiny", "live", 3)
    assert store.resolve("tiny").version == 1


def test_a_published_file_is_a_copy_that_others_can_read(store: Store, file: Path) -> None:
    made = store.publish(file)
    file.write_bytes(b"")
    assert store.resolve("tiny").manifest.name == "tiny"
    readable = stat.S_IROTH
    assert made.path.stat().st_mode & readable
    assert made.path.parent.stat().st_mode & readable
    assert (store.root / "tiny" / "aliases" / "live").stat().st_mode & readable


@pytest.mark.parametrize("alias", ["", "Live", "3", "../x", "a/b", "a" * 65, "a\n", ".a"])
def test_an_alias_that_is_no_word_is_refused_before_anything_is_written(
    store: Store, file: Path, alias: str
) -> None:
    with pytest.raises(BadParameter):
        store.publish(file, aliases=("live", alias))
    assert store.names() == []
    store.publish(file)
    with pytest.raises(BadParameter):
        store.point("tiny", alias, 1)


def test_a_broken_file_changes_nothing(store: Store, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises((CorruptModel, BadManifest)):
        store.publish(broken)
    assert not store.root.exists()


def test_a_stored_file_that_was_changed_is_refused(store: Store, file: Path) -> None:
    made = store.publish(file)
    made.path.write_bytes(made.path.read_bytes()[:-20])
    with pytest.raises((CorruptModel, BadManifest)):
        store.resolve("tiny")


REFERENCES = [
    "",
    "@",
    "@1",
    "other",
    "tiny@2",
    "tiny@0",
    "tiny@01",
    "tiny@-1",
    "tiny@1 ",
    "tiny@" + "9" * 300,
    "tiny@" + "9" * 5000,
    "tiny@\u0661",
    "tiny@other",
    "tiny@1@live",
    "tiny@../aliases/live",
    "tiny@aliases",
    "tiny/1",
    "../outside",
    "../outside@1",
    "./tiny",
    "tiny/../tiny",
    "..",
    ".",
    "a/b",
    "\0",
    "tiny\0",
    "tiny@\0",
    "Tiny",
    "t" * 5000,
]


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: repr(r)[:30])
def test_what_names_no_model_is_not_found(tmp_path: Path, file: Path, reference: str) -> None:
    store = Store(tmp_path / "store", behind=())
    store.publish(file)
    # A model beside the root, which no reference may reach.
    Store(tmp_path, behind=()).publish(write(tmp_path / "o.onnx", manifest(name="outside")))
    with pytest.raises(ModelNotFound) as caught:
        store.resolve(reference)
    assert caught.value.details["known"] == ["tiny@live", "tiny@1"]
    assert len(caught.value.message) < 500


@pytest.mark.parametrize("how", ["../outside", "{root}/outside", "../store/../outside", "\0"])
def test_no_name_leads_out_of_the_root(tmp_path: Path, how: str) -> None:
    Store(tmp_path, behind=()).publish(write(tmp_path / "o.onnx", manifest(name="outside")))
    store = Store(tmp_path / "store", behind=())
    store.root.mkdir()
    name = how.format(root=tmp_path)
    assert store.versions(name) == []
    assert store.aliases(name) == {}
    for reference in (name, f"{name}@1", f"{name}@live"):
        with pytest.raises(ModelNotFound):
            store.resolve(reference)
    with pytest.raises(ModelNotFound):
        store.point(name, "live", 1)
    assert list(store.root.iterdir()) == []


@given(st.text(max_size=30))
def test_any_reference_is_found_or_not(reference: str) -> None:
    with pytest.raises(ModelNotFound):
        Store(Path("/nonexistent"), behind=()).resolve(reference)


def test_released_models_lie_behind_the_root(tmp_path: Path, file: Path) -> None:
    Store(tmp_path / "released", behind=()).publish(file)
    released = write(tmp_path / "s.onnx", manifest(name="starter"))
    Store(tmp_path / "released", behind=()).publish(released)
    store = Store(tmp_path / "own", behind=(tmp_path / "released",))
    assert store.names() == ["starter", "tiny"]
    assert store.resolve("tiny").path.is_relative_to(tmp_path / "released")
    # An own version comes after the released one, in the writable root only.
    assert store.publish(file).version == 2
    assert store.versions("tiny") == [1, 2]
    assert store.resolve("tiny").version == 2
    assert Store(tmp_path / "released", behind=()).versions("tiny") == [1]
    # And an alias of the root wins over the released one, also to go back.
    store.point("tiny", "live", 1)
    assert store.resolve("tiny").path.is_relative_to(tmp_path / "released")
    assert Store(tmp_path / "released", behind=()).aliases("tiny") == {"live": 1}


def test_what_lies_about_is_ignored(store: Store, file: Path) -> None:
    store.publish(file)
    folder = store.root / "tiny"
    (folder / ".staging-dead").mkdir()
    shutil.copy(file, folder / ".staging-dead" / "model.onnx")
    (folder / "notes.txt").write_text("x")
    (folder / "007").mkdir()
    (folder / "\u0663").mkdir()
    (folder / "aliases" / ".half").write_text("1")
    (folder / "aliases" / "broken").write_text("one")
    (folder / "aliases" / "gone").write_text("77\n")
    (store.root / "empty").mkdir()
    (store.root / ".hidden").mkdir()
    (store.root / "file").write_text("x")
    assert store.names() == ["tiny"]
    assert store.versions("tiny") == [1]
    assert store.aliases("tiny") == {"gone": 77, "live": 1}
    with pytest.raises(ModelNotFound):
        store.resolve("tiny@gone")
    with pytest.raises(ModelNotFound):
        store.resolve("tiny@broken")
    # Half a version blocks no later one.
    (folder / "2").mkdir()
    (folder / "2" / "notes.txt").write_text("x")
    assert store.publish(file).version == 3


def test_an_alias_that_points_nowhere_says_so(store: Store, file: Path) -> None:
    store.publish(file)
    (store.root / "tiny" / "aliases" / "gone").write_text("77\n")
    with pytest.raises(ModelNotFound, match=r"tiny@gone points to version 77.*to one of \[1\]"):
        store.resolve("tiny@gone")


def test_a_removed_version_is_gone_and_its_number_with_it(store: Store, file: Path) -> None:
    for _ in range(2):
        made = store.publish(file)
    with pytest.raises(BadParameter, match="tiny@2 is what live points to"):
        store.remove("tiny", 2)
    store.point("tiny", "live", 1)
    store.remove("tiny", 2)
    assert store.versions("tiny") == [1]
    for gone in (lambda: store.resolve("tiny@2"), lambda: store.remove("tiny", 2)):
        with pytest.raises(ModelNotFound):
            gone()
    with pytest.raises(ModelNotFound):
        store.point("tiny", "live", 2)
    with pytest.raises(ModelNotFound, match="tiny@2 was removed"):
        made.read()
    assert store.publish(file, ()).version == 3


def test_a_broken_version_can_be_removed(store: Store, file: Path) -> None:
    store.publish(file, ()).path.write_bytes(b"broken")
    store.remove("tiny", 1)
    assert store.names() == []
    assert store.publish(file).version == 2


def test_a_removed_alias_leaves_the_version(store: Store, file: Path) -> None:
    store.publish(file, ("live", "global"))
    store.unpoint("tiny", "global")
    assert store.aliases("tiny") == {"live": 1}
    for name, alias in (("tiny", "global"), ("other", "live"), ("tiny", "../aliases/live")):
        with pytest.raises(ModelNotFound):
            store.unpoint(name, alias)
    assert store.resolve("tiny").version == 1


def test_what_ships_with_islet_is_not_removed_but_shows_again(tmp_path: Path, file: Path) -> None:
    Store(tmp_path / "released", behind=()).publish(file)
    store = Store(tmp_path / "own", behind=(tmp_path / "released",))
    with pytest.raises(BadParameter, match="ships with Islet"):
        store.unpoint("tiny", "live")
    with pytest.raises(BadParameter, match="ships with Islet"):
        store.remove("tiny", 1)
    store.publish(file)
    store.unpoint("tiny", "live")
    assert store.resolve("tiny").version == 1
    store.remove("tiny", 2)
    assert store.versions("tiny") == [1]
    assert Store(tmp_path / "released", behind=()).aliases("tiny") == {"live": 1}


def test_an_alias_never_names_what_is_being_removed(store: Store, file: Path) -> None:
    for _ in range(19):
        store.publish(file, ())
    # Who removes may be done before the other has begun; this one stays "live" then.
    store.publish(file)

    def point() -> None:
        for version in range(1, 20):
            with contextlib.suppress(ModelNotFound):
                store.point("tiny", "live", version)

    def remove() -> None:
        for version in range(1, 20):
            with contextlib.suppress(BadParameter):
                store.remove("tiny", version)

    threads = [threading.Thread(target=work) for work in (point, remove)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.resolve("tiny").version in store.versions("tiny")


def _scoped(store: Store, folder: Path, scope: str, *aliases: str) -> None:
    made = manifest(
        provenance=Provenance("test", scope=scope, site=aliases[0] if aliases else None)
    )
    store.publish(write(folder / "x.onnx", made, len(store.versions("tiny"))), aliases)


def test_a_scope_names_the_one_model_that_has_it(store: Store, tmp_path: Path) -> None:
    _scoped(store, tmp_path, "central", "live")
    _scoped(store, tmp_path, "local")
    assert store.resolve("tiny@local").version == 2
    assert store.resolve("tiny@central").version == 1
    with pytest.raises(ModelNotFound):
        store.resolve("tiny@global")
    with pytest.raises(ModelNotFound):
        store.resolve("other@local")
    # What an alias names goes before what lies about.
    for _ in range(2):
        _scoped(store, tmp_path, "local", "site-1")
    assert store.aliases("tiny") == {"live": 1, "site-1": 4}
    assert store.resolve("tiny@local").version == 4


def test_a_scope_of_several_models_names_them(store: Store, tmp_path: Path) -> None:
    _scoped(store, tmp_path, "local", "site-1")
    _scoped(store, tmp_path, "local", "site-2")
    with pytest.raises(BadParameter, match="tiny@site-1, tiny@site-2") as caught:
        store.resolve("tiny@local")
    assert caught.value.details["candidates"] == ["tiny@site-1", "tiny@site-2"]
    store.unpoint("tiny", "site-1")
    assert store.resolve("tiny@local").version == 2
    store.unpoint("tiny", "site-2")
    with pytest.raises(BadParameter, match="tiny@1, tiny@2"):
        store.resolve("tiny@local")


def test_an_alias_of_a_scopes_name_wins(store: Store, tmp_path: Path) -> None:
    _scoped(store, tmp_path, "global")
    _scoped(store, tmp_path, "local", "global")
    assert store.resolve("tiny@global").version == 2


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.names() == []
    with pytest.raises(ModelNotFound, match="none"):
        store.resolve("tiny")


def test_the_default_store_is_where_the_environment_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ISLET_STORE", str(tmp_path / "here"))
    assert default_store().root == tmp_path / "here"
    monkeypatch.delenv("ISLET_STORE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert default_store().root == tmp_path / ".islet" / "store"


def _publish_some(root: Path, file: Path, count: int) -> None:
    for _ in range(count):
        Store(root, behind=()).publish(file)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_publishers_at_once_lose_nothing(tmp_path: Path, file: Path, kind: str) -> None:
    root = tmp_path / "store"
    if kind == "threads":
        workers: list = [
            threading.Thread(target=_publish_some, args=(root, file, 5)) for _ in range(4)
        ]
    else:
        start = multiprocessing.get_context("spawn").Process
        workers = [start(target=_publish_some, args=(root, file, 5)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    store = Store(root, behind=())
    assert store.versions("tiny") == list(range(1, 5 * len(workers) + 1))
    assert store.resolve("tiny").version in store.versions("tiny")
    assert {p.name for p in (root / "tiny").iterdir()} == {
        "aliases",
        *map(str, store.versions("tiny")),
    }


def test_readers_never_see_half_a_version(tmp_path: Path, file: Path) -> None:
    root = tmp_path / "store"
    store = Store(root, behind=())
    store.publish(file)
    publisher = threading.Thread(target=_publish_some, args=(root, file, 15))
    publisher.start()
    seen = []
    while publisher.is_alive():
        seen.append(store.resolve("tiny").version)
    publisher.join()
    assert seen == sorted(seen)
    assert store.resolve("tiny").version == 16

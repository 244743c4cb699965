"""What the page's files are served as, built and not built."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from models.labels import BY_NAME, DEFAULT_MASKS, STRUCTURES
from serving.ui import page as room


def get(path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(room.page)
        async with httpx.AsyncClient(transport=transport, base_url="http://islet") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page as if it had just been built."""
    folder = tmp_path / "built"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>Islet</title>")
    (folder / "main-ABC123.js").write_text("export {};")
    (folder / "style-DEF456.css").write_text("p { margin: 0 }")
    (folder / "licences.txt").write_text("MIT")
    (folder / "notes.md").write_text("not for sale")
    (tmp_path / "secret.txt").write_text("not for sale")
    monkeypatch.setattr(room, "BUILT", folder)


def test_the_index_is_asked_for_each_time(built: None) -> None:
    answer = get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "etag" in answer.headers
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("name", "kind", "kept"),
    [
        ("main-ABC123.js", "text/javascript", True),
        ("style-DEF456.css", "text/css", True),
        ("licences.txt", "text/plain", False),
    ],
)
def test_files_named_by_their_hash_are_kept_for_ever(
    built: None, name: str, kind: str, kept: bool
) -> None:
    answer = get(f"/ui/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == kind
    assert ("immutable" in answer.headers["cache-control"]) == kept


@pytest.mark.parametrize(
    "path",
    ["/ui/main-XYZ.js", "/ui/notes.md", "/ui/..%2Fsecret.txt", "/ui/.hidden.js", "/ui/", "/other"],
)
def test_nothing_else_is_there(built: None, path: str) -> None:
    assert get(path).status_code == 404


def test_without_a_build_the_page_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BUILT", tmp_path / "none")
    answer = get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "npm run build --prefix serving/ui" in answer.text


def test_structures_are_those_of_the_label_maps(built: None) -> None:
    found = get("/ui/structures.json").json()
    assert len(found["structures"]) == len(STRUCTURES)
    for one in found["structures"]:
        known = BY_NAME[one["name"]]
        assert (one["value"], tuple(one["colour"])) == (known.value, known.colour)
    assert tuple(found["default_masks"]) == DEFAULT_MASKS

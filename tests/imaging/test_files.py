from __future__ import annotations

import stat
from pathlib import Path

import pytest

from imaging.files import sweep, whole_file, write_whole


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_and_readable_by_all(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, b"old")
    with whole_file(path, durable) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_what_stops_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")

    def stopped() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_takes_what_is_half_written_and_nothing_else(tmp_path: Path) -> None:
    with whole_file(tmp_path / "kept") as file:
        file.write(b"new")
        (half,) = tmp_path.iterdir()
        half.with_name(f".killed{half.suffix}").write_bytes(b"half")
    write_whole(tmp_path / "data.part", b"mine")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.part", "kept"]
    sweep(tmp_path / "no such folder")

"""What happened is kept whole, damage is refused, and the terminal is told in numbers by hand."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.progress import (
    Entry,
    History,
    Matrix,
    Round,
    columns,
    duration,
    line,
    size,
    table,
)
from imaging.errors import BadParameter, DataError
from tests.federation.histories import MATRIX, a_round, entry, history, nothing

SITES = ("c1", "c2", "north-clinic")
STATES = ("took part", "late", "absent", "refused: damaged", "failed", "waiting", "training")
share = st.floats(0, 1)
finite = st.floats(0, 1e12)
entries = st.builds(
    Entry,
    site=st.sampled_from(SITES),
    state=st.sampled_from(STATES),
    cases=st.none() | st.integers(0, 10**6),
    loss=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    seconds=st.none() | finite,
    up_bytes=st.integers(0, 2**60),
    down_bytes=st.integers(0, 2**60),
    dice=st.dictionaries(st.text(), share, max_size=2),
)
rounds = st.builds(
    Round,
    number=st.integers(0, 1000),
    attempt=st.integers(1, 9),
    started=st.datetimes().map(lambda moment: moment.isoformat()),
    seconds=finite,
    entries=st.lists(entries, max_size=3, unique_by=lambda e: e.site).map(tuple),
    overhead_s=finite,
)
histories = st.builds(
    History,
    job=st.text(min_size=1),
    job_id=st.text(),
    strategy=st.text(),
    recipe=st.text(),
    rounds=st.lists(rounds, max_size=3).map(tuple),
    matrix=st.none() | st.just(MATRIX),
    privacy=st.text(),
    sites=st.just(SITES),
    notes=st.lists(st.text(), max_size=2).map(tuple),
)


@given(histories)
def test_a_history_comes_back_as_it_was(made: History) -> None:
    assert History.from_json(made.to_json()) == made


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    made = history()
    made.save(tmp_path / "rounds.json")
    assert History.load(tmp_path / "rounds.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["rounds.json"]


def test_a_file_that_was_cut_is_refused_at_every_length(tmp_path: Path) -> None:
    whole = history().to_json()
    path = tmp_path / "rounds.json"
    for length in range(0, len(whole), 97):
        path.write_text(whole[:length])
        with pytest.raises(DataError, match=r"rounds\.json cannot be read as a job's history"):
            History.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="has begun"):
        History.load(path)
    with pytest.raises(DataError, match="has begun"):
        History.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rounds", 3),
        ("rounds", [3]),
        ("rounds", [{"number": 1}]),
        ("matrix", []),
        ("matrix", {"candidates": "round-1"}),
        ("sites", "c1"),
        ("sites", [1, 2]),
        ("notes", [None]),
        ("job", 4),
        ("unknown", 1),
    ],
)
def test_a_file_of_other_values_is_refused(name: str, value: object) -> None:
    raw = json.loads(history().to_json())
    with pytest.raises(DataError, match="no history of a job"):
        History.from_json(json.dumps({**raw, name: value}))
    with pytest.raises(DataError, match="no history of a job"):
        History.from_json("[]")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"site": "C 1"}, "'C 1' is no name of a site"),
        ({"state": "away"}, "'away' is no state"),
        ({"state": "refused"}, "'refused' is no state"),
        ({"state": "refused: Too Noisy"}, "'refused: Too Noisy' is no state"),
        ({"state": "late: damaged"}, "is no state"),
        ({"loss": math.nan}, "loss must be finite, not nan; write None"),
        ({"cases": -1}, "cases must be 0 or more and finite, not -1"),
        ({"seconds": math.inf}, "seconds must be 0 or more and finite, not inf"),
        ({"up_bytes": -2}, "up_bytes .* not -2"),
        ({"dice": {"liver": 1.5}}, "that of 'liver' is 1.5"),
        ({"dice": {"liver": math.nan}}, "that of 'liver' is nan"),
    ],
)
def test_an_entry_is_checked(changed: dict[str, object], said: str) -> None:
    with pytest.raises(BadParameter, match=said):
        entry(**changed)  # type: ignore[arg-type]


def test_rounds_are_checked() -> None:
    with pytest.raises(BadParameter, match="two entries of one site"):
        a_round(1, entry("c1"), entry("c1", "late"))
    with pytest.raises(BadParameter, match="no attempt 0 at a round 1"):
        a_round(1, attempt=0)
    with pytest.raises(BadParameter, match="ISO 8601, not 'noon'"):
        Round(1, 1, "noon", 1.0, (), 0.0)
    with pytest.raises(BadParameter, match="overhead_s must be 0 or more"):
        Round(1, 1, "2026-03-01T09:00:00", 1.0, (), -1.0)
    with pytest.raises(BadParameter, match=r"\['c3'\] is no site of the job; there are c1, c2"):
        history(a_round(1, entry("c3")))
    assert a_round(3).label == "3"
    assert a_round(3, attempt=2).label == "3.2"


def test_a_matrix_names_what_it_has() -> None:
    with pytest.raises(BadParameter, match=r"\['round-9'\] is no candidate"):
        Matrix(("round-1",), ("c1",), {}, {}, "round-9", "mean")
    with pytest.raises(BadParameter, match=r"\['c2'\] is no site of the matrix"):
        Matrix(("round-1",), ("c1",), {"round-1": {"c2": {}}}, {}, "round-1", "mean")
    with pytest.raises(BadParameter, match="that of 'liver' is 2"):
        Matrix(("round-1",), ("c1",), {"round-1": {"c1": {"liver": 2}}}, {}, "round-1", "mean")


def test_a_line_says_what_is_known_and_no_more() -> None:
    dice = {"tumor": 0.25, "pancreas": 0.7125}
    assert line(3, 10, entry(dice=dice)) == (
        "round 3/10  c1  took part: 12 cases, loss 0.500, 31.2 s, 410 kB up, 1.24 MB down, "
        "Dice pancreas 0.713, tumor 0.250"
    )
    assert line(3, 10, nothing("c2", "absent")) == "round 3/10  c2  absent"
    assert line(1, 2, nothing("c2", "refused: damaged")) == "round 1/2  c2  refused: damaged"


def test_the_table_is_of_the_current_round() -> None:
    assert table(history()).splitlines() == [
        "wang2020 (7f3a): fedavg, wang2020-tiny",
        "round 2, attempt 2, begun 2026-03-01T09:00:00+00:00; chosen: round-1",
        "site  now        took part  cases  loss   time    up      down     Dice",
        "c1    took part  2/3        12     0.500  31.2 s  410 kB  1.24 MB  pancreas 0.250",
        "c2    -          1/3        -      -      -       -       -        -",
        "All cases are phantoms.",
    ]
    begun = history(matrix=None, rounds=(), job_id="", notes=())
    assert table(begun) == "wang2020 (no id): fedavg, wang2020-tiny\nno round has begun"


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc  d"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (1_240_000, "1.24 MB"),
        (3.5e9, "3.5 GB"),
        (2.5e13, "25000 GB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (119, "119.0 s"), (120, "2.0 min"), (9000, "2.5 h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_notes_make_a_job_one_of_phantoms() -> None:
    assert history().on_phantoms
    assert not history(notes=("Simulated on one machine.",)).on_phantoms


def test_it_is_read_without_torch() -> None:
    code = "import federation.progress, sys; print(*(set(sys.modules) & {'torch', 'matplotlib'}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"

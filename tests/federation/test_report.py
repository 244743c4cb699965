"""The page holds everything it shows, loads nothing and lets no name write into it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from federation.picture import panels, score, scored_rows
from federation.progress import History, Matrix
from federation.report import participation, write_report
from tests.federation.histories import MATRIX, a_round, entry, history, nothing

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements, addresses and text of a page; refuses one whose elements do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [v or "" for k, v in attrs if k.split(":")[-1] in {"href", "src"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data.strip())


def page(made: History, folder: Path) -> Page:
    return Page(write_report(made, folder).read_text(encoding="utf-8"))


def crowd(sites: int, rounds: int) -> History:
    names = tuple(f"c{n}" for n in range(sites))
    return history(
        *(a_round(n + 1, *(entry(name) for name in names)) for n in range(rounds)), sites=names
    )


def test_it_shows_what_happened(tmp_path: Path) -> None:
    found = page(history(privacy="Epsilon is 4.2 for each site."), tmp_path)
    words = found.words
    assert "Federated training wang2020, on phantoms and not on patients" in words
    for said in ("All cases are phantoms.", "Epsilon is 4.2 for each site.", "fedavg", "c1, c2"):
        assert said in words
    assert "round-1, by the rule mean" in words
    assert "2, and 1 repeated" in words
    # Three times 410 kB, and three times 1.24 MB, from four entries of which one gave nothing.
    assert "1.64 MB" in words
    assert "4.96 MB" in words
    assert "refused: damaged (1)" in words
    # The mean of 0.5 and 0.8 over one case and three.
    assert "0.7250" in words
    assert {"svg", "table", "details"} <= found.tags


def test_it_loads_nothing(tmp_path: Path) -> None:
    found = page(history(), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not {"script", "link", "img", "image", "iframe", "object"} & found.tags
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"url\((?!#)|@import", text)
    assert "default-src 'none'" in text


def test_the_figures_of_a_page_share_no_ids(tmp_path: Path) -> None:
    text = write_report(history(), tmp_path).read_text(encoding="utf-8")
    each = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(each) == 4
    # Markers and clips are found by their id in the whole page, so those must be one figure's.
    used = [set(re.findall(r"(?:xlink:href=\"|url\()#([^\")]+)", svg)) for svg in each]
    owned = [set(re.findall(r'id="([^"]+)"', svg)) for svg in each]
    for place, (asked, own) in enumerate(zip(used, owned, strict=True)):
        assert asked <= own
        assert not asked & set().union(*owned[:place], *owned[place + 1 :])


def test_no_name_writes_into_the_page(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script>&$\\frac{$'
    scores = {bad: {"c1": {bad: 0.5}}}
    found = page(
        history(
            a_round(1, entry("c1", dice={bad: 0.5})),
            job=bad,
            job_id=bad,
            recipe=bad,
            strategy=bad,
            privacy=bad,
            notes=(bad,),
            matrix=Matrix((bad,), ("c1",), scores, {}, bad, bad),
        ),
        tmp_path,
    )
    assert "script" not in found.tags
    # As a fact, a note, a panel's title and an axis.
    assert found.words.count(bad) >= 4


def test_no_phantoms_no_word_of_them(tmp_path: Path) -> None:
    found = page(history(notes=()), tmp_path)
    assert "Federated training wang2020" in found.words
    assert "phantom" not in " ".join(found.words)


@pytest.mark.parametrize("sites", [6, 7])
def test_many_sites_are_cells_and_not_curves(sites: int) -> None:
    figure = next(iter(panels(crowd(sites, 3)).values()))
    (axes,) = figure.axes
    curves = [item.get_label() for item in axes.lines]
    texts = [item.get_text() for item in axes.texts]
    assert len(curves) == (6 if sites == 6 else 0)
    assert texts.count(".25") == (0 if sites == 6 else 7 * 3)


def test_a_grid_has_a_letter_for_each_site_and_round() -> None:
    figure = panels(history())["Who took part in which round"]
    (axes,) = figure.axes
    found = {(*item.get_position(), item.get_text()) for item in axes.texts}
    # Columns are 1, 2 and 2.2; c2 has no entry in the last.
    assert found == {(0, 0, "P"), (1, 0, "A"), (2, 0, "P"), (0, 1, "P"), (1, 1, "R")}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "2.2"]
    key = [text.get_text() for text in axes.get_legend().get_texts()]
    assert key == ["P  took part", "A  absent", "R  refused"]


def test_a_grid_of_very_many_rounds_stays_a_picture() -> None:
    rounds = [a_round(n + 1, entry("c1", dice={})) for n in range(810)]
    figures = panels(history(*rounds, matrix=None))
    width, height = figures["Who took part in which round"].get_size_inches()
    assert width <= 80
    assert height < 2
    # Too narrow for letters.
    assert len(figures["Who took part in which round"].axes[0].texts) == 0


def test_the_chosen_candidate_is_framed() -> None:
    (axes,) = panels(history())["Candidates for the global model, by site"].axes
    (frame,) = axes.patches
    assert frame.get_xy() == (-0.5, -0.5)
    assert "chosen" in [text.get_text() for text in axes.texts]
    bold = [t.get_text() for t in axes.get_xticklabels() if t.get_fontweight() == "bold"]
    assert bold == ["round-1"]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["pancreas, c1", "pancreas, c2", "pancreas, mean by cases", "tumor, c2"]


def test_means_are_weighted_by_the_cases_of_those_that_scored() -> None:
    assert scored_rows(MATRIX) == [
        ("c1", "pancreas"),
        ("c2", "pancreas"),
        ("", "pancreas"),
        ("c2", "tumor"),
    ]
    assert score(MATRIX, "round-1", "", "pancreas") == pytest.approx((0.5 + 3 * 0.8) / 4)
    assert score(MATRIX, "round-2", "", "pancreas") == 0.625
    assert score(MATRIX, "round-2", "", "tumor") is None
    assert score(MATRIX, "round-2", "c2", "tumor") is None
    assert score(MATRIX, "round-1", "c2", "tumor") == 0.25


def test_the_picture_has_every_panel(tmp_path: Path) -> None:
    sizes = []
    for folder, made in (("all", history()), ("less", history(matrix=None))):
        write_report(made, tmp_path / folder)
        with Image.open(tmp_path / folder / "report.png") as image:
            assert image.format == "PNG"
            sizes.append(image.size)
            pixels = np.asarray(image)
    assert sizes[0][1] > sizes[1][1]
    # The green of a site that took part is on white ground.
    assert (pixels == (0x00, 0x9E, 0x73)).all(axis=-1).sum() > 500
    assert (pixels[0, -1] == 255).all()


def test_a_job_without_rounds_has_a_report(tmp_path: Path) -> None:
    found = page(history(rounds=(), matrix=None), tmp_path)
    assert "not yet" in found.words
    assert "svg" not in found.tags
    assert (tmp_path / "report.png").stat().st_size > 0
    assert participation(history(rounds=(), matrix=None)) == "no round has begun"


def test_the_same_history_gives_the_same_page(tmp_path: Path) -> None:
    first, second = (write_report(history(), tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_participation_is_a_letter_a_round() -> None:
    assert participation(history()).splitlines() == [
        "site  1    took part  up      down",
        "c1    PAP  2/3        820 kB  2.48 MB",
        "c2    PR.  1/3        820 kB  2.48 MB",
        "P took part, A absent, R refused",
    ]


def test_every_fifth_round_is_named_over_its_letter() -> None:
    made = history(
        *(a_round(n, nothing("c1", "waiting")) for n in range(1, 13)), matrix=None, sites=("c1",)
    )
    head, row, _ = participation(made).splitlines()
    for label in (1, 6, 11):
        place = head.index(str(label))
        assert place == row.index("W") + label - 1

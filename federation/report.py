"""What a job has done, for people: a page that needs no network, a picture, a table of letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from federation.picture import LETTERS, as_png, as_svg, panels, score, scored_rows
from federation.progress import TOOK_PART, Entry, History, Matrix, columns, duration, size, table
from imaging.files import write_whole

PAGE, PICTURE = "report.html", "report.png"
# Nothing is loaded from anywhere, whatever a name holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_CSS = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; }
dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid #8886; }
.note { border-left: 4px solid #E69F00; padding: .1rem 0 .1rem .8rem; margin: .6rem 0; }
.wide { overflow-x: auto; padding: .3rem 0; }
svg { display: block; }
@media print {
  body { margin: 0; max-width: none; font-size: 11px; }
  svg { max-width: 100%; height: auto; }
  section { break-inside: avoid; }
  details { display: none; }
}
"""
# What a reader has to know to read a figure, by the figure's title.
_CAPTIONS = {
    "Dice of the global model that each site received": "Mean over a site's own validation cases "
    "at the start of a round, before it trains. Sites with different cases do not compare.",
    "Candidates for the global model, by site": "Mean Dice; means over sites are weighted by their "
    "validation cases. A cell that is empty was not scored: "
    "the site does not label the structure or did not answer.",
    "Who took part in which round": "A round that was repeated has a column for each attempt.",
}


def write_report(history: History, folder: Path) -> Path:
    """Write ``report.html`` and ``report.png``.

    The page holds its figures and loads nothing; it follows the reader's light or dark mode.

    Args:
        history: of a job, ended or not.
        folder: where to; made if it is missing.

    Returns:
        The page.
    """
    figures = panels(history)
    write_whole(folder / PICTURE, as_png(figures))
    drawn = [
        _section(title, as_svg(figure, f"figure-{place}"))
        for place, (title, figure) in enumerate(figures.items())
    ]
    title = escape(_title(history))
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="note">{escape(note)}</p>' for note in history.notes),
        _facts(history),
        *drawn,
        "" if history.matrix is None else _chosen(history.matrix),
        _sites(history),
        "<details><summary>As text</summary>",
        *(f"<pre>{escape(text)}</pre>" for text in (table(history), participation(history))),
        "</details>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_CSS}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )
    write_whole(folder / PAGE, page.encode())
    return folder / PAGE


def participation(history: History) -> str:
    """Who took part, as text: a row a site, a letter a round, a dot where nothing is known."""
    if not history.rounds:
        return "no round has begun"
    letters = [(_letters(history.entries(site)), site) for site in history.sites]
    rows = [
        ("site", _ruler([made.label for made in history.rounds]), "took part", "up", "down"),
        *((site, word, *_totals(history.entries(site))) for word, site in letters),
    ]
    seen = {entry.kind for made in history.rounds for entry in made.entries}
    key = ", ".join(f"{letter} {kind}" for kind, (letter, _) in LETTERS.items() if kind in seen)
    return "\n".join([*columns(rows), *([key] if key else [])])


def _title(history: History) -> str:
    where = ", on phantoms and not on patients" if history.on_phantoms else ""
    return f"Federated training {history.job}{where}"


def _section(title: str, figure: str) -> str:
    caption = f"<p>{escape(_CAPTIONS[title])}</p>" if title in _CAPTIONS else ""
    return (
        f'<section><h2>{escape(title)}</h2>{caption}<div class="wide" role="img" '
        f'aria-label="{escape(title)}">{figure}</div></section>'
    )


def _facts(history: History) -> str:
    """What was run, in a list of terms."""
    entries = [entry for made in history.rounds for entry in made.entries]
    done = {made.number for made in history.rounds}
    repeated = len(history.rounds) - len(done)
    facts = {
        "Job": f"{history.job} ({history.job_id})" if history.job_id else history.job,
        "Strategy": history.strategy,
        "Recipe": history.recipe,
        "Sites": ", ".join(history.sites) or "none",
        "Rounds": f"{len(done)}" + (f", and {repeated} repeated" if repeated else ""),
        "Begun": history.rounds[0].started if history.rounds else "not yet",
        "Time in rounds": duration(sum(made.seconds for made in history.rounds)),
        "Sent by sites": size(sum(entry.up_bytes for entry in entries)),
        "Sent to sites": size(sum(entry.down_bytes for entry in entries)),
        "Protection of updates": history.privacy,
    }
    if history.matrix is not None:
        facts["Global model"] = f"{history.matrix.chosen}, by the rule {history.matrix.rule}"
    terms = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    return f"<dl>{''.join(terms)}</dl>"


def _chosen(matrix: Matrix) -> str:
    """The chosen candidate's scores in full."""
    rows = [("structure", "site", "validation cases", "Dice")]
    for site, structure in scored_rows(matrix):
        dice = score(matrix, matrix.chosen, site, structure)
        cases = f"{matrix.cases[site]}" if site in matrix.cases else ""
        rows.append(
            (structure, site or "mean by cases", cases, "" if dice is None else f"{dice:.4f}")
        )
    return f"<section><h2>{escape(matrix.chosen)}, the global model</h2>{_html(rows)}</section>"


def _sites(history: History) -> str:
    """What each site did over all rounds, with the codes of refusals."""
    rows = [("site", "took part", "else", "up", "down", "training time")]
    for site in history.sites:
        entries = history.entries(site)
        other = Counter(e.state for e in entries if e is not None and e.state != TOOK_PART)
        part, up, down = _totals(entries)
        seconds = sum(entry.seconds or 0 for entry in entries if entry is not None)
        said = ", ".join(f"{state} ({count})" for state, count in sorted(other.items()))
        rows.append((site, part, said, up, down, duration(seconds)))
    return f"<section><h2>Sites</h2>{_html(rows)}</section>"


def _html(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table, the first its head."""
    head, *body = (
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * (len(rows) - 1), rows, strict=True)
    )
    lines = "".join(f"<tr>{row}</tr>" for row in body)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
        "</div>"
    )


def _letters(entries: Sequence[Entry | None]) -> str:
    return "".join("." if entry is None else LETTERS[entry.kind][0] for entry in entries)


def _ruler(labels: Sequence[str]) -> str:
    """Every fifth label over its own letter, where the one before leaves room."""
    ruler = ""
    for place, label in enumerate(labels):
        if place % 5 == 0 and len(ruler) + bool(ruler) <= place:
            ruler = ruler.ljust(place) + label
    return ruler


def _totals(entries: Sequence[Entry | None]) -> tuple[str, str, str]:
    """How often a site took part, what it sent and was sent."""
    found = [entry for entry in entries if entry is not None]
    part = sum(entry.state == TOOK_PART for entry in found)
    up, down = (sum(getattr(e, name) for e in found) for name in ("up_bytes", "down_bytes"))
    return f"{part}/{len(entries)}", size(up), size(down)

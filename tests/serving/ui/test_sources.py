"""The page's sources: their types hold, and what needs no browser gives what numpy gives."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

UI = Path(__file__).resolve().parents[3] / "serving" / "ui"
TOOLS = UI / "node_modules" / ".bin"
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(
    not NODE or not (TOOLS / "esbuild").exists(),
    reason="node and the page's packages are not installed; `make ui` installs them",
)


def run(*command: str | Path, text: str = "") -> str:
    done = subprocess.run(
        list(map(str, command)), input=text, capture_output=True, text=True, cwd=UI, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def evaluate(folder: Path, module: str, script: str, given: Any = None) -> Any:
    """What a script prints as JSON that is given a bundled module as ``m`` and a value."""
    bundle = folder / f"{module}.mjs"
    define = '--define:document={"baseURI":"http://127.0.0.1/"}'
    run(
        *(TOOLS / "esbuild", f"src/{module}.ts", "--bundle", "--format=esm"),
        *(define, f"--outfile={bundle}"),
    )
    main = folder / "main.mjs"
    main.write_text(
        f"import * as m from './{bundle.name}';\n"
        "import { readFileSync } from 'node:fs';\n"
        "const given = JSON.parse(readFileSync(0, 'utf8'));\n"
        f"const result = await (async () => {{ {script} }})();\n"
        "console.log(JSON.stringify(result));\n"
    )
    assert NODE
    return json.loads(run(NODE, main, text=json.dumps(given)))


def test_types_hold() -> None:
    run(TOOLS / "tsc")


def test_a_label_map_is_made_coarser_and_cropped(tmp_path: Path) -> None:
    """Stored from the back to the front, as most CTs are: steps along an axis may be negative."""
    stored = np.zeros((7, 9, 12), np.uint8)
    stored[2:5, 3:8, 4:6] = 3
    stored[4, 1, 10] = 1
    shown = stored[:, ::-1, :]
    given = {
        "voxels": stored.ravel().tolist(),
        "start": 8 * 12,
        "step": [1, -12, 9 * 12],
        "shape": [12, 9, 7],
        "spacing": [0.5, 0.7, 2.0],
    }
    script = """
        const grid = m.coarser(given, 4);
        const box = m.occupied(m.coarser(given, 99), given);
        const part = m.coarser(given, 99, box);
        const nothing = { ...given, voxels: given.voxels.map(() => 0) };
        return {
            shape: grid.shape, spacing: grid.spacing, labels: Array.from(grid.labels),
            box, part: Array.from(part.labels),
            empty: m.occupied(m.coarser(nothing, 99), nothing),
        };
    """
    found = evaluate(tmp_path, "grid", script, given)
    coarse = shown[::2, ::3, ::3]
    assert found["shape"] == list(coarse.shape[::-1])
    assert found["spacing"] == pytest.approx([1.5, 2.1, 4.0])
    assert found["labels"] == coarse.ravel().tolist()
    low, high = found["box"]["low"], found["box"]["high"]
    where = np.argwhere(shown)[:, ::-1]
    assert low == np.maximum(where.min(axis=0) - 1, 0).tolist()
    assert high == np.minimum(where.max(axis=0) + 2, given["shape"]).tolist()
    inside = tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1], strict=True))
    assert found["part"] == shown[inside].ravel().tolist()
    assert found["empty"] is None


def test_the_slices_that_show_most_are_gone_to(tmp_path: Path) -> None:
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1, 2:6, 2:4] = 3
    labels[4, 2:7, 2:9] = 6
    given = {"labels": labels.ravel().tolist(), "shape": [10, 8, 6]}
    script = "return [m.busiest(given, [3]), m.busiest(given, [6]), m.busiest(given, [9])];"
    kidney, liver, none = evaluate(tmp_path, "grid", script, given)
    assert kidney[2] == pytest.approx(1.5 / 6)
    assert liver[2] == pytest.approx(4.5 / 6)
    assert none is None


def test_events_are_cut_where_they_end_however_they_come(tmp_path: Path) -> None:
    stream = (
        'event: progress\nid: 1\ndata: {"a": "ä"}\n\n'
        ": waiting\n\n"
        "event: end\ndata: one\ndata: two\n\n"
        "event: cut\ndata: off"
    )
    script = """
        const bytes = new TextEncoder().encode(given);
        const seen = [];
        for (const size of [1, 3, 1000]) {
            const body = new ReadableStream({ start(to) {
                for (let at = 0; at < bytes.length; at += size) {
                    to.enqueue(bytes.slice(at, at + size));
                }
                to.close();
            } });
            const events = [];
            for await (const event of m.events(new Response(body))) events.push(event);
            seen.push(events);
        }
        return seen;
    """
    wanted = [{"name": "progress", "data": '{"a": "ä"}'}, {"name": "end", "data": "one\ntwo"}]
    assert evaluate(tmp_path, "api", script, stream) == [wanted] * 3


def test_what_was_chosen_is_told_by_its_content(tmp_path: Path) -> None:
    script = """
        const file = (name, ...bytes) => new File([new Uint8Array(bytes)], name);
        const nifti = new Uint8Array(400);
        nifti.set([0x6e, 0x2b, 0x31, 0], 344);
        const kinds = [];
        for (const files of [
            [file("a", 0x50, 0x4b, 3, 4)],
            [file("a.zip", 0x1f, 0x8b)],
            [new File([nifti], "a.dcm")],
            [file("1", 1), file("2", 2)],
            [file(".DS_Store", 1), file("2", 2)],
            [file(".DS_Store", 1)],
        ]) {
            const ct = await m.toCt(files);
            kinds.push(ct && [ct.kind, ct.files.length]);
        }
        const form = m.toBody(await m.toCt([file("DOE^JOHN.dcm", 1), file("x/DOE^JOHN.dcm", 2)]));
        return [kinds, form.getAll("ct").map((part) => part.name)];
    """
    kinds, names = evaluate(tmp_path, "ct", script)
    assert kinds == [["zip", 1], ["nifti", 1], ["nifti", 1], ["dicom", 2], ["dicom", 1], None]
    assert names == ["1", "2"]

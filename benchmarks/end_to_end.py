"""What the service's whole answer takes, against merely decoding the CT and writing a label map.

    python -m benchmarks.end_to_end CT [--model NAME] [--repeats N] [--json FILE]

A service of its own answers over HTTP on loopback: a file is sent as it is, a folder of DICOM as a
zip that stores it. The floor is this process with the same cores: read the CT, deflate a label map,
write it. Both run in turns; the ratio is of their medians. Seconds by step are of the report.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx

from benchmarks.overhead import read_and_write, spread
from imaging.threads import usable_cores
from serving.process import free_port, running, serve_command, serve_environment

RATIO_BAR = 2.5
_ANSWERS_WITHIN_S = 600.0


def main() -> int:
    """Measure, print, write; exit code 1 when the bar is missed."""
    args = _arguments()
    result = measure(args.ct, args.model, args.repeats)
    print(f"reading and writing alone {result['floor_s']['median']:.3f} s (median)")
    print(f"the service's answer      {result['answer_s']['median']:.3f} s")
    print("of it " + ", ".join(f"{step} {s:.3f}" for step, s in result["steps_s"].items()))
    ratio = result["ratios"]["answer_to_floor"]
    print(f"ratio {ratio:.2f} (bar {RATIO_BAR})")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))
    return int(ratio > RATIO_BAR)


def measure(ct: Path, model: str, repeats: int) -> dict[str, Any]:
    """Interleaved runs of both sides after one warm-up; seconds."""
    body = _sent(ct)
    floor: list[float] = []
    answers: list[float] = []
    steps: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        own = {"ISLET_SPOOL": str(folder / "spool"), "ISLET_MODEL": model}
        command = serve_command("127.0.0.1", port)
        environment = serve_environment({**os.environ, **own})
        with (
            (folder / "log").open("wb") as log,
            running(command, environment, url, log),
            httpx.Client(base_url=url, timeout=_ANSWERS_WITHIN_S) as client,
        ):
            for turn in range(repeats + 1):
                low = read_and_write(ct, folder)
                seconds, made = _answer(client, body)
                if turn:
                    floor.append(low)
                    answers.append(seconds)
                    steps.append(made)
    middle = {name: statistics.median(s.get(name, 0.0) for s in steps) for name in steps[0]}
    return {
        "ct": ct.name,
        "model": model,
        "machine": {"cores": usable_cores()},
        "repeats": repeats,
        "floor_s": spread(floor),
        "answer_s": spread(answers),
        "steps_s": middle,
        "ratios": {"answer_to_floor": statistics.median(answers) / statistics.median(floor)},
    }


def _answer(client: httpx.Client, body: bytes) -> tuple[float, dict[str, float]]:
    """Seconds from sending the CT to having all of the answer; the report's own, by step."""
    start = time.perf_counter()
    answer = client.post("/v1/segment", content=body)
    seconds = time.perf_counter() - start
    answer.raise_for_status()
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        report = json.loads(archive.read("report.json"))
    return seconds, report["seconds"]


def _sent(ct: Path) -> bytes:
    """A file's bytes; a folder's files in a zip."""
    if ct.is_file():
        return ct.read_bytes()
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in ct.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(ct))
    return held.getvalue()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("ct", type=Path)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

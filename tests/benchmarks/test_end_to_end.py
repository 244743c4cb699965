"""The service's answer against floor and reference: what is compared, and what is said of it."""

from __future__ import annotations

import io
import json
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
import torch

from benchmarks import end_to_end
from benchmarks.beside import Beside, ProcessLost
from benchmarks.end_to_end import Visit, agreement, by_slices, compared, visit
from benchmarks.reference import Model, load_model, segment
from imaging.errors import BadParameter
from imaging.writers.nifti import encode_nifti, write_nifti
from models.store import Store, default_store
from tests.serving.tiny_model import CENTRES, WINDOW, boxes_ct, publish

# MONAI looks for decoders that it was not installed with, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    path = tmp_path / "ct.nii.gz"
    write_nifti(boxes_ct()[0], path)
    return path


def service(labels: bytes) -> httpx.Client:
    """A client of a service that always answers with one label map."""

    def respond(request: httpx.Request) -> httpx.Response:
        assert request.read().startswith(b"\x1f\x8b")
        seconds = {"network": 0.3 if request.url.params.get("doubtful") else 0.1, "total": 0.5}
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            archive.writestr("report.json", json.dumps({"seconds": seconds}))
            archive.writestr("labels.nii.gz", labels)
        return httpx.Response(200, content=held.getvalue())

    return httpx.Client(transport=httpx.MockTransport(respond), base_url="http://service")


def child(folder: Path, body: str) -> list[str]:
    """The command of a process that does ``body`` with each ``request``."""
    script = folder / "child.py"
    head = "import sys; sys.path.insert(0, '.')\nfrom benchmarks.beside import answer\n"
    work = "def work(request):\n" + textwrap.indent(textwrap.dedent(body), "    ")
    script.write_text(f"{head}{work}\nanswer(work)\n")
    return [sys.executable, str(script)]


def test_all_sides_of_a_ct_are_measured_and_its_masks_compared(ct: Path, tmp_path: Path) -> None:
    made, labels = boxes_ct()
    theirs = labels.copy()
    theirs[theirs == 2] = 0
    write_nifti(made.with_array(theirs), tmp_path / "made.nii.gz")
    copies = f"""
        import shutil
        print("libraries print what they like")
        shutil.copy("{tmp_path}/made.nii.gz", request["out"])
        return {{"seconds": 30.0}}
    """
    with service(encode_nifti(made.with_array(labels))) as client:
        found = visit(ct, client, 2, tmp_path, child(tmp_path, copies))
    assert {name: len(values) for name, values in found.sides.items()} == {
        "reading and writing alone": 2,
        "the answer": 2,
        "the reference pipeline": 2,
    }
    # Of what is counted, not of the label map that is asked for at the end.
    assert found.steps == {"network": 0.1, "total": 0.5}
    tumor, organ = (labels == 2).sum(), (labels == 1).sum()
    assert found.dice["pancreas"] == pytest.approx(2 * organ / (2 * organ + tumor))
    assert found.dice["kidney"] == 1
    assert found.reference_peak_mb is not None
    assert found.reference_peak_mb > 5
    result = compared({20: found}, {"model": "starter"})
    assert result.ratios["dice_with_reference"] == found.dice["pancreas"]
    median = sum(found.sides["the answer"]) / 2
    assert result.ratios["reference_to_answer"] == pytest.approx(30 / median)
    assert set(result.bars) == set(result.ratios)
    written = json.loads(json.dumps(result.to_json()))
    assert written["dice"]["20"]["kidney"] == 1
    assert "dice_with_reference" in written["missed"]


def test_a_reference_that_dies_leaves_the_other_sides(ct: Path, tmp_path: Path) -> None:
    made, labels = boxes_ct()
    dies = "print('DefaultCPUAllocator: cannot allocate'); sys.exit(3)"
    with service(encode_nifti(made.with_array(labels))) as client:
        found = visit(ct, client, 1, tmp_path, child(tmp_path, dies))
    assert list(found.sides) == ["reading and writing alone", "the answer"]
    assert len(found.sides["the answer"]) == 1
    assert found.failed is not None
    assert "exit code 3" in found.failed
    assert "cannot allocate" in found.failed
    result = compared({20: found}, {})
    assert list(result.ratios) == ["answer_to_floor"]
    assert result.facts["reference_failed"] == {20: found.failed}


def test_a_reference_that_found_nothing_is_no_agreement(ct: Path, tmp_path: Path) -> None:
    made, labels = boxes_ct()
    write_nifti(made.with_array(np.zeros_like(labels)), tmp_path / "made.nii.gz")
    copies = f"import shutil; shutil.copy('{tmp_path}/made.nii.gz', request['out']); "
    with service(encode_nifti(made.with_array(labels))) as client:
        command = child(tmp_path, copies + "return {'seconds': 1.0}")
        found = visit(ct, client, 1, tmp_path, command)
    assert found.failed is not None
    assert "dice_with_reference" not in compared({20: found}, {}).ratios


def test_each_of_several_cts_has_its_own_ratios() -> None:
    def took(answer: float, **dice: float) -> Visit:
        sides = {"reading and writing alone": [1.0], "the answer": [answer]}
        return Visit({**sides, "the reference pipeline": [24.0]}, {"total": answer}, dice)

    result = compared({119: took(2.0, liver=0.99), 300: took(3.0, liver=0.99, spleen=0.97)}, {})
    assert result.ratios == {
        "answer_to_floor_119": 2.0,
        "reference_to_answer_119": 12.0,
        "dice_with_reference_119": 0.99,
        "answer_to_floor_300": 3.0,
        "reference_to_answer_300": 8.0,
        "dice_with_reference_300": 0.97,
    }
    assert result.missed() == [
        "answer_to_floor_300",
        "reference_to_answer_300",
        "dice_with_reference_300",
    ]
    assert "the answer, 300 slices" in result.sides


def test_trifles_are_not_compared(tmp_path: Path) -> None:
    made, labels = boxes_ct()
    ours, theirs = tmp_path / "ours.nii.gz", tmp_path / "theirs.nii.gz"
    write_nifti(made.with_array(labels), ours)
    speck = labels.copy()
    # A voxel is 1.8 mm3: 0.9 ml of liver, where we have none.
    speck[12:17, 0:10, 0:10] = 6
    write_nifti(made.with_array(speck), theirs)
    assert agreement(ours, theirs) == {"pancreas": 1.0, "kidney": 1.0}
    speck[12:18, 0:10, 0:10] = 6
    write_nifti(made.with_array(speck), theirs)
    assert agreement(ours, theirs)["liver"] == 0.0


def test_what_cannot_be_compared_is_refused(ct: Path, tmp_path: Path) -> None:
    made, labels = boxes_ct()
    moved = nibabel.load(ct)
    moved.affine[0, 3] += 1
    nibabel.save(nibabel.Nifti1Image(moved.dataobj, moved.affine), tmp_path / "moved.nii.gz")
    with pytest.raises(BadParameter, match="different grids"):
        agreement(ct, tmp_path / "moved.nii.gz")
    with pytest.raises(BadParameter, match="both have 20 slices"):
        by_slices([ct, tmp_path / "moved.nii.gz"])
    series = tmp_path / "series"
    series.mkdir()
    with (
        service(encode_nifti(made.with_array(labels))) as client,
        pytest.raises(BadParameter, match="not series"),
    ):
        visit(series, client, 1, tmp_path, ["never started"])


def test_a_process_beside_answers_in_turn_and_is_stopped(tmp_path: Path) -> None:
    command = child(tmp_path, "return {'twice': 2 * request['n']}")
    with Beside(command, tmp_path / "log") as beside:
        assert [beside.ask({"n": n})["twice"] for n in (1, 2)] == [2, 4]
        pid = beside.pid
    assert not Path(f"/proc/{pid}").exists()
    killed = "import os; os.kill(os.getpid(), 9)"
    with Beside(child(tmp_path, killed), tmp_path / "log") as beside:
        for _ in range(2):
            with pytest.raises(ProcessLost, match="killed by signal 9"):
                beside.ask({})


def by_brightness(patch: torch.Tensor) -> torch.Tensor:
    """The scores of ``tests.serving.tiny_model``."""
    low, high = WINDOW
    centres = torch.tensor([(hu - low) / (high - low) for hu in CENTRES.values()])
    shaped = centres[None, :, None, None, None]
    return 2 * shaped * patch - shaped**2


@pytest.mark.parametrize("codes", ["LPS", "RAS", "ASL", "IPR"])
def test_the_reference_labels_a_ct_on_its_own_grid(codes: str, tmp_path: Path) -> None:
    made, labels = boxes_ct()
    paths = {}
    for name, array in (("ct", made.array), ("truth", labels)):
        write_nifti(made.with_array(array), tmp_path / f"{name}-made.nii.gz")
        image = nibabel.load(tmp_path / f"{name}-made.nii.gz")
        turn = nibabel.orientations.ornt_transform(
            nibabel.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(codes)
        )
        paths[name] = tmp_path / f"{name}.nii.gz"
        nibabel.save(image.as_reoriented(turn), paths[name])
    model = Model(
        by_brightness, (2.5, 0.8, 0.9), WINDOW, (0.0, 1.0), (16, 32, 32), np.arange(4, dtype="u1")
    )
    segment(paths["ct"], tmp_path / "out.nii.gz", model)
    found, truth = (nibabel.load(path) for path in (tmp_path / "out.nii.gz", paths["truth"]))
    assert nibabel.aff2axcodes(found.affine) == tuple(codes)
    np.testing.assert_allclose(found.affine, truth.affine)
    np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(truth.dataobj))


def test_the_references_network_is_the_released_one(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    # A store that another test's service has is none of this one's.
    monkeypatch.delenv("ISLET_STORE", raising=False)
    model = load_model("starter")
    assert model.patch == (64, 96, 96)
    assert (model.spacing_mm, model.scale) == ((2.5, 2.5, 2.5), (-1.0, 1.0))
    assert model.values.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    patch = np.random.default_rng(0).uniform(-1, 1, (1, 1, 32, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(default_store().resolve("starter").path))
    (expected,) = session.run(None, {session.get_inputs()[0].name: patch})
    with torch.inference_mode():
        found = model.network(torch.from_numpy(patch)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    made = Store(tmp_path / "store", behind=())
    publish(made, tmp_path)
    monkeypatch.setenv("ISLET_STORE", str(made.root))
    return made.root


def test_a_model_that_is_not_of_the_usual_kind_has_no_reference(store: Path) -> None:
    with pytest.raises(BadParameter, match="spacing"):
        load_model("starter")


@pytest.mark.e2e
@pytest.mark.slow
def test_the_command_measures_a_real_service(
    ct: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISLET_THREADS", "1")
    out = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["it", str(ct), "--repeats", "1", "--json", str(out)])
    code = end_to_end.main()
    found = json.loads(out.read_text())
    assert code == int(bool(found["missed"]))
    assert set(found["ratios"]) == {"answer_to_floor"}
    assert found["steps_s"]["20"]["network"] > 0
    assert out.with_suffix(".png").is_file()

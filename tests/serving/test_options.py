"""What a request may ask for, and what is refused."""

from __future__ import annotations

import json

import pytest

from imaging.errors import BadParameter
from models.labels import BY_NAME, STRUCTURES
from models.store import Store
from serving.options import (
    PARAMETERS,
    PRIORITIES,
    Options,
    from_parameters,
    priority_of,
    split_words,
)
from serving.outputs import DICOM_FILES, OUTPUTS, coded, media_type, segment_of
from serving.settings import Settings


def test_words_come_with_commas_or_repeated() -> None:
    assert split_words(["kidney, tumor", "liver"]) == ("kidney", "tumor", "liver")
    assert split_words([]) == ()
    assert Options(masks=("kidney", "tumor", "kidney")).masks == ("kidney", "tumor")


def test_nothing_given_takes_the_settings() -> None:
    options = from_parameters({}, Settings(model="monet@global", device="cpu"))
    assert options == Options("monet@global", device="cpu", outputs=("nifti",))
    assert options.dicom == ()


def test_everything_given_is_taken() -> None:
    given = {
        "model": ["wang2020@site-2"],
        "structures": ["kidney,tumor", "pancreas"],
        "outputs": ["sr,seg", "nifti", "seg"],
        "series": ["1.2.3"],
        "device": ["cpu"],
        "doubtful": ["keep"],
        "priority": ["high"],
    }
    assert set(given) == set(PARAMETERS)
    options = from_parameters(given, Settings())
    wanted = Options(
        "wang2020@site-2",
        ("kidney", "tumor", "pancreas"),
        "1.2.3",
        "cpu",
        ("nifti", "seg", "sr"),
        "keep",
    )
    assert options == wanted
    assert options.dicom == ("seg", "sr")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"output": ["nifti"]}, "no parameter 'output'; there are model, structures, outputs"),
        ({"outputs": ["nifti,dicom"]}, "no output 'dicom'; use one of nifti"),
        ({"structures": ["spine"]}, "no structure named 'spine'"),
        ({"device": ["tpu"]}, "auto, cpu, cuda"),
        ({"doubtful": ["perhaps"]}, "drop, keep, not 'perhaps'"),
        ({"model": ["a", "b"]}, "model is given 2 times"),
        ({"priority": ["low", "high"]}, "priority is given 2 times"),
    ],
)
def test_what_is_not_there_is_named(given: dict[str, list[str]], said: str) -> None:
    with pytest.raises(BadParameter, match=said):
        from_parameters(given, Settings())


@pytest.mark.parametrize("masks", [("spine",), ("pancreas", "")])
def test_an_unknown_mask_is_no_option(masks: tuple[str, ...]) -> None:
    with pytest.raises(BadParameter, match="no structure"):
        Options(masks=masks)


def test_no_output_at_all_is_no_option() -> None:
    with pytest.raises(BadParameter, match="No output"):
        Options(outputs=())


def test_priorities_are_words() -> None:
    assert priority_of({}) == priority_of({"priority": ["normal"]}) == 10
    assert [priority_of({"priority": [word]}) for word in PRIORITIES] == [0, 10, 20]
    for words in (["urgent"], ["low", "high"], ["30"]):
        with pytest.raises(BadParameter, match="low, normal, high"):
            priority_of({"priority": words})


def test_a_job_keeps_options_as_json() -> None:
    options = Options("flat@1", ("kidney",), None, "cpu", ("sr", "nifti"))
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_every_file_of_a_result_has_a_media_type() -> None:
    names = ["labels.nii.gz", "preview.png", "report.json", "result.zip", *DICOM_FILES.values()]
    kinds = {media_type(name) for name in names}
    assert media_type("report.dcm") == "application/dicom"
    assert len(kinds) == 5
    assert set(DICOM_FILES) < set(OUTPUTS)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
def test_a_structure_says_in_dicom_what_it_is(structure) -> None:
    made = segment_of(structure)
    assert structure.value in made.values
    assert (made.kind.value, made.kind.scheme) == (structure.snomed, "SCT")
    assert (made.anatomy is None) == (structure.parent is None)
    if structure.parent:
        assert made.anatomy.value == BY_NAME[structure.parent].snomed
    else:
        lesions = {s.value for s in STRUCTURES if s.parent == structure.name}
        assert set(made.values) == {structure.value, *lesions}
    abnormal = made.category.meaning == "Morphologically Abnormal Structure"
    assert abnormal == structure.name.endswith(("tumor", "cyst"))


def test_only_what_the_model_looks_for_is_a_segment(store: Store) -> None:
    model = store.resolve("starter")
    said = coded(("kidney", "tumor"), model)
    assert [s.name for s in said.segments] == ["pancreas_tumor", "kidney"]
    assert said.algorithm.sha256 == model.sha256
    assert (said.algorithm.name, said.algorithm.version) == ("starter", "1")

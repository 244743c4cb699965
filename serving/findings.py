"""How much of what was found is believed, in the words of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from models.confidence import Finding, Lesion
from models.labels import BY_NAME, members
from models.manifest import Manifest

# Why a CT holds none of the organs: the model marks none, or nothing that it marks is believed.
Reason = Literal["no_organ", "doubtful_organs"]


def of_structure(finding: Finding) -> dict[str, Any]:
    """``confidence`` (null where unknown), ``doubtful`` (found, and left out of the mask).

    A structure that lies in an organ also has its ``lesions``, the likeliest first.
    """
    said: dict[str, Any] = {
        "confidence": _rounded(finding.confidence),
        "doubtful": finding.evidence is not None and not finding.kept,
    }
    return said | {"lesions": [_of_lesion(lesion) for lesion in finding.lesions]}


def of_mask(name: str, voxels: Mapping[str, int], findings: Mapping[str, Finding]) -> float | None:
    """Confidence of a mask: the mean of its structures', each by its voxels in the mask.

    Args:
        name: of the mask.
        voxels: of every structure that the model looks for.
        findings: of the same.

    Returns:
        ``None`` for an empty mask, or where one of the structures in it has no confidence.
    """
    inside = [s.name for s in members(name) if voxels.get(s.name)]
    known = [(voxels[n], c) for n in inside if (c := findings[n].confidence) is not None]
    if not known or len(known) < len(inside):
        return None
    return _rounded(sum(n * c for n, c in known) / sum(n for n, _ in known))


def nothing_here(findings: Mapping[str, Finding]) -> Reason | None:
    """Why a CT holds none of the model's organs; ``None`` where it holds one.

    Also ``None`` for a model of lesions alone: a CT without a lesion is as good as any.
    """
    organs = [finding for name, finding in findings.items() if BY_NAME[name].parent is None]
    if not organs or any(finding.kept for finding in organs):
        return None
    return "no_organ" if all(f.evidence is None for f in organs) else "doubtful_organs"


def notes(findings: Mapping[str, Finding], manifest: Manifest) -> tuple[str, ...]:
    """A sentence for each structure that was left out, and one where nothing is left."""
    least = {entry.structure: entry.least for entry in manifest.calibration.trust}
    said = [
        f"{name} was left out: its confidence is {finding.confidence:.2f}, this model needs "
        f"{least[name]:.2f}; ask with doubtful=keep to see it."
        for name, finding in findings.items()
        if finding.evidence is not None
        and not finding.kept
        and finding.confidence is not None
        and finding.confidence < least[name]
    ]
    if nothing_here(findings):
        organs = [name for name in findings if BY_NAME[name].parent is None]
        said.append(
            f"Nothing here: {manifest.name} looks for {', '.join(organs)} and finds none of them; "
            "check that the CT shows the abdomen."
        )
    return tuple(said)


def _of_lesion(lesion: Lesion) -> dict[str, Any]:
    return {
        "volume_ml": round(lesion.evidence.volume_ml, 3),
        "centroid_lps_mm": [round(mm, 2) for mm in lesion.centre_mm],
        "confidence": _rounded(lesion.confidence),
        "doubtful": not lesion.kept,
    }


def _rounded(confidence: float | None) -> float | None:
    return None if confidence is None else round(confidence, 3)

"""The one contract between training and serving: what an ONNX file says of itself.

A model is one ``.onnx`` file; its metadata carries this manifest as JSON under ``islet.manifest``.
Training writes it, serving obeys it, nothing else passes between them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from imaging.errors import BadManifest
from models.fields import freeze
from models.labels import BY_NAME

METADATA_KEY = "islet.manifest"
# Of the SHA-256 of the manifest's text.
DIGEST_KEY = "islet.manifest.sha256"
# Base64 of the finder's ONNX file, where the manifest has one.
FINDER_KEY = "islet.finder"
SCHEMA = 1
BACKGROUND = "background"
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Sampling:
    """How a CT is brought onto the model's grid, axes (Z, Y, X) running to (S, P, L).

    Per axis exactly one rule: ``spacing_mm`` resamples to that distance, ``size`` to that many
    voxels over the whole extent (MoNet's 256x256), both ``None`` keep the input's own slices.

    ``body`` leaves out what lies around the body's box: air and most of the table. It goes with
    spacings alone, since a size counts the voxels of the whole extent.
    """

    spacing_mm: tuple[float | None, float | None, float | None]
    size: tuple[int | None, int | None, int | None] = (None, None, None)
    body: bool = False

    def __post_init__(self) -> None:
        freeze(self, "spacing_mm", "size")
        if self.body and any(size is not None for size in self.size):
            raise BadManifest("A grid of given size covers the whole extent, not the body alone.")
        for spacing, size in zip(self.spacing_mm, self.size, strict=True):
            if spacing is not None and size is not None:
                raise BadManifest("An axis is sampled by spacing or by size, not by both.")
            if spacing is not None and not 0.1 <= spacing <= 20:
                raise BadManifest(f"Spacing {spacing} mm is outside 0.1 to 20 mm.")
            if size is not None and not 8 <= size <= 1024:
                raise BadManifest(f"Size {size} is outside 8 to 1024 voxels.")


@dataclass(frozen=True)
class Intensity:
    """Hounsfield units to network input.

    Attributes:
        window_hu: (low, high); values are clipped to it.
        scale: ``unit`` maps the window to 0..1, ``signed`` to -1..1, ``scan`` maps the clipped
            scan's own minimum and maximum to 0..1 (MoNet's loader).
    """

    window_hu: tuple[float, float]
    scale: str = "unit"

    def __post_init__(self) -> None:
        freeze(self, "window_hu")
        if not self.window_hu[0] < self.window_hu[1]:
            raise BadManifest(f"window_hu must be (low, high), not {self.window_hu}.")
        if self.scale not in ("unit", "signed", "scan"):
            raise BadManifest(f"scale must be unit, signed or scan, not {self.scale!r}.")


@dataclass(frozen=True)
class Cleanup:
    """Postprocessing of one structure on the model's grid.

    Attributes:
        structure: which one.
        keep_largest: keep at most so many connected components (0 keeps all).
        min_ml: drop components smaller than this.
        least_part: drop components smaller than this part of the largest one, 0 to 1. An organ that
            a mask broke in two is kept whole, specks are not.
        paired: one organ on each side: keep the largest component left and right of the image's
            middle. What lies across it (bladder, bowel) goes, unless nothing else is there.
        attached: of a lesion: drop components that touch no voxel of its organ.
    """

    structure: str
    keep_largest: int = 0
    min_ml: float = 0.0
    least_part: float = 0.0
    paired: bool = False
    attached: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        if self.attached and (
            self.structure not in BY_NAME or BY_NAME[self.structure].parent is None
        ):
            raise BadManifest(f"{self.structure[:64]} lies in no organ that it could touch.")
        if self.keep_largest < 0 or self.min_ml < 0:
            raise BadManifest(
                f"keep_largest {self.keep_largest} and min_ml {self.min_ml} must not be negative."
            )
        if not 0 <= self.least_part <= 1:
            raise BadManifest(f"least_part must be from 0 to 1, not {self.least_part}.")


@dataclass(frozen=True)
class Trust:
    """How the evidence for one structure becomes its confidence.

    ``logistic(offset + certainty * logit(p) + size * min(0, ln(V / usual_ml)))`` with p the mean
    probability over the structure's voxels and V its volume: what is smaller than usual and not cut
    off by the image's edge is trusted less, what is larger is not trusted more.

    Attributes:
        structure: which one. Of an organ the confidence is the Dice that is to be expected; of
            every single lesion it is the probability that there is one.
        offset, certainty, size: of the formula; the latter two are not negative.
        usual_ml: of the whole organ, or of a single lesion.
        least: what has less confidence is left out of the mask, 0 to 1; 0 keeps all.
    """

    structure: str
    offset: float
    certainty: float
    size: float
    usual_ml: float
    least: float = 0.0

    def __post_init__(self) -> None:
        freeze(self)
        if self.certainty < 0 or self.size < 0:
            raise BadManifest(
                f"certainty {self.certainty} and size {self.size} must not be negative: more "
                "evidence makes no structure less likely."
            )
        if not self.usual_ml > 0:
            raise BadManifest(f"usual_ml {self.usual_ml} must be positive.")
        if not 0 <= self.least <= 1:
            raise BadManifest(f"least {self.least} must be in [0, 1].")


@dataclass(frozen=True)
class Calibration:
    """How the scores of a model become confidences; fitted on cases that it had not seen.

    Attributes:
        temperature: scores are divided by it before they become probabilities.
        trust: at most one entry a structure; one without has no confidence and is never left out
            for itself.
        fitted: for people: on what, and how well it did.
    """

    temperature: float = 1.0
    trust: tuple[Trust, ...] = ()
    fitted: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self, "trust")
        if not 1e-3 <= self.temperature <= 1e3:
            raise BadManifest(f"temperature {self.temperature} is outside 0.001 to 1000.")
        names = [entry.structure for entry in self.trust]
        if len(set(names)) < len(names):
            raise BadManifest(f"A structure is trusted in one way, not in several: {names}.")

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> Calibration:
        """From parsed JSON, as ``dataclasses.asdict`` gives it.

        Raises:
            BadManifest, TypeError, KeyError: a missing or unknown field, or one out of range.
        """
        return cls(**{**raw, "trust": tuple(Trust(**entry) for entry in raw.get("trust", ()))})


@dataclass(frozen=True)
class Finder:
    """A small network, kept in the same file, that says which part of a CT the model need visit.

    Attributes:
        spacing_mm: about what it sees; whole voxels of the model's grid are averaged.
        divisor: its inputs have sides that are multiples of it (per axis, Z, Y, X).
        sha256: of its own ONNX file.
        outputs: structures of its channels; one for the background goes before them.
        sure, least_ml: a connected part of what it marks that has nowhere so much probability, or
            is smaller, is not counted; without the rest the model visits everything.
        margin_mm: around what is found, that the model sees besides.
        fitted: for people: what it spares, and what of the masks it costs.
    """

    spacing_mm: float
    divisor: tuple[int, int, int]
    sha256: str
    outputs: tuple[str, ...]
    sure: float = 0.95
    least_ml: float = 15.0
    margin_mm: float = 20.0
    fitted: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        freeze(self, "divisor", "outputs")
        if not self.outputs or not BY_NAME.keys() >= set(self.outputs):
            raise BadManifest(f"A finder's outputs {self.outputs} are not all known structures.")
        if not 1 <= self.spacing_mm <= 50:
            raise BadManifest(f"A finder's spacing {self.spacing_mm} mm is outside 1 to 50 mm.")
        if min(self.divisor) < 1 or max(self.divisor) > 256:
            raise BadManifest(f"A finder's divisor {self.divisor} is outside 1 to 256.")
        if not 0 < self.sure <= 1:
            raise BadManifest(f"A finder is sure from {self.sure} on, which is outside (0, 1].")
        if not (0 <= self.margin_mm <= 500 and 0 <= self.least_ml <= 1e4):
            raise BadManifest(
                f"margin_mm {self.margin_mm} is outside 0 to 500, or least_ml {self.least_ml} "
                "outside 0 to 10000."
            )


@dataclass(frozen=True)
class Provenance:
    """Where the weights come from.

    Attributes:
        recipe: the recipe's name.
        scope: ``global``, ``local`` or ``central``.
        site, round, job: of a federation, else ``None``.
        data: one entry per data set: name, number of cases, licence, how it was labelled.
        seed, steps: of the training.
        software: versions that made it.
        created: ISO date.
    """

    recipe: str
    scope: str = "central"
    site: str | None = None
    round: int | None = None
    job: str | None = None
    data: tuple[dict[str, Any], ...] = ()
    seed: int | None = None
    steps: int | None = None
    software: dict[str, str] = field(default_factory=dict)
    created: str | None = None

    def __post_init__(self) -> None:
        freeze(self, "data")
        if self.scope not in ("global", "local", "central"):
            raise BadManifest(f"scope must be global, local or central, not {self.scope!r}.")


@dataclass(frozen=True)
class Manifest:
    """Everything serving needs to know about a model.

    Attributes:
        name: model name in the store.
        architecture: key of ``models.architectures.ARCHITECTURES``.
        sampling, intensity: the preprocessing.
        dims: 2 or 3; a 2D network sees (N, 1, Y, X), a 3D one (N, 1, Z, Y, X).
        patch: (Z, Y, X) voxels of one network input at most; a 2D network has Z = 1.
        divisor: network inputs have sides that are multiples of it (per axis, Z, Y, X).
        overlap: fraction of the patch that neighbours share, 0 <= overlap < 1.
        activation: ``softmax`` (channel 0 is background) or ``sigmoid`` (a channel a structure,
            over 0.5 is in; the later of overlapping ones wins).
        outputs: structure names in channel order, without the background.
        cleanup: postprocessing, in this order.
        edge_mm: how far the edges of the network's masks may be off, one standard deviation; the
            CT moves them so far (:mod:`models.edges`). With 0 they stay.
        provenance, scores, licence, intended_use: for people and for the store.
        weights_sha256: SHA-256 of the ONNX graph without its metadata; set by ``models.export``.
        calibration: of the confidences; the default trusts nothing and leaves nothing out.
        fidelity: of other runtimes by their names, the least Dice of any mask with that of ONNX
            Runtime; see ``islet models compare``. One that is not named is not used.
        finder: of the part of a CT that is visited; without one all of it is.
        organs: of a graph that finds organs first and then lesions in them: the structures of its
            tensor ``organs``, in channel order after the background. Lesions are in their organs
            there, and it takes less work.
    """

    name: str
    architecture: str
    sampling: Sampling
    intensity: Intensity
    dims: int
    patch: tuple[int, int, int]
    outputs: tuple[str, ...]
    provenance: Provenance
    divisor: tuple[int, int, int] = (1, 1, 1)
    overlap: float = 0.25
    activation: str = "softmax"
    cleanup: tuple[Cleanup, ...] = ()
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = "research use only"
    intended_use: str = "Research. Not a medical device."
    weights_sha256: str | None = None
    schema: int = SCHEMA
    calibration: Calibration = field(default_factory=Calibration)
    fidelity: dict[str, float] = field(default_factory=dict)
    finder: Finder | None = None
    edge_mm: float = 0.0
    organs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        freeze(self, "patch", "divisor", "outputs", "cleanup", "organs")
        for problem in self._problems():
            raise BadManifest(f"Manifest of {self.name[:64]!r}: {problem}.")

    def _problems(self) -> list[str]:
        found = []
        if self.schema != SCHEMA:
            found.append(f"schema {self.schema} is not {SCHEMA}, which this version reads")
        if not NAME_PATTERN.fullmatch(self.name):
            found.append("the name must match [a-z0-9][a-z0-9._-]{0,63}")
        if self.dims not in (2, 3):
            found.append(f"dims must be 2 or 3, not {self.dims}")
        found += self._of_patch()
        if not 0 <= self.edge_mm <= 50:
            found.append(f"edge_mm {self.edge_mm} must be in [0, 50]")
        if not 0 <= self.overlap < 1:
            found.append(f"overlap {self.overlap} must be in [0, 1)")
        if self.activation not in ("softmax", "sigmoid"):
            found.append(f"activation must be softmax or sigmoid, not {self.activation!r}")
        if not all(0 <= dice <= 1 for dice in self.fidelity.values()):
            found.append(f"fidelity {self.fidelity} must be Dice, from 0 to 1")
        if self.finder and self.intensity.scale == "scan":
            found.append("what a finder sees cannot be scaled by the whole scan")
        return found + self._of_structures()

    def _of_structures(self) -> list[str]:
        found = []
        trusted = (entry.structure for entry in self.calibration.trust)
        named = (*self.outputs, *(step.structure for step in self.cleanup), *trusted)
        unknown = [name for name in named if name not in BY_NAME]
        if unknown or not self.outputs or len(set(self.outputs)) != len(self.outputs):
            found.append(f"outputs must be distinct structures; not known: {unknown}")
        if len(set(self.organs) & set(self.outputs)) != len(self.organs):
            found.append(f"organs {self.organs} must be distinct structures among its outputs")
        return found

    def _of_patch(self) -> list[str]:
        if min(self.patch) < 1 or math.prod(self.patch) > 2**27:
            return [f"patch {self.patch} must be three positive sizes under 2**27 voxels"]
        if self.dims == 2 and self.patch[0] != 1:
            return [f"a 2D patch has Z = 1, not {self.patch[0]}"]
        if any(d < 1 or p % d for p, d in zip(self.patch, self.divisor, strict=True)):
            return [f"patch {self.patch} must be a multiple of divisor {self.divisor}"]
        return []

    @property
    def channels(self) -> int:
        """Channels of the network's output, the background's included."""
        return len(self.outputs) + (self.activation == "softmax")

    def of_organs(self) -> Manifest:
        """What the file promises of its organs' scores alone."""
        kept = tuple(step for step in self.cleanup if step.structure in self.organs)
        return dataclasses.replace(self, outputs=self.organs, organs=(), cleanup=kept)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no whitespace."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and validate.

        Raises:
            BadManifest: not JSON, a missing or unknown field, or a value outside its range.
        """
        try:
            raw = json.loads(text)
            raw["sampling"] = Sampling(**raw["sampling"])
            raw["intensity"] = Intensity(**raw["intensity"])
            raw["provenance"] = Provenance(**raw["provenance"])
            raw["cleanup"] = tuple(Cleanup(**c) for c in raw.get("cleanup", ()))
            raw["calibration"] = Calibration.from_raw(raw.get("calibration", {}))
            finder = raw.get("finder")
            raw["finder"] = None if finder is None else Finder(**finder)
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadManifest(
                f"The manifest does not parse ({type(error).__name__}: {error}); correct it, or "
                "export the model again with `islet export`."
            ) from error

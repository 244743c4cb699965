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
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from imaging.errors import BadManifest
from models.labels import BY_NAME

METADATA_KEY = "islet.manifest"
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
        _freeze(self, "spacing_mm", "size")
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
        _freeze(self, "window_hu")
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
        paired: one organ on each side: keep the largest component left and right of the image's
            middle. What lies across it (bladder, bowel) goes, unless nothing else is there.
        attached: of a lesion: drop components that touch no voxel of its organ.
    """

    structure: str
    keep_largest: int = 0
    min_ml: float = 0.0
    paired: bool = False
    attached: bool = False

    def __post_init__(self) -> None:
        _freeze(self)
        if self.attached and (
            self.structure not in BY_NAME or BY_NAME[self.structure].parent is None
        ):
            raise BadManifest(f"{self.structure[:64]} lies in no organ that it could touch.")
        if self.keep_largest < 0 or self.min_ml < 0:
            raise BadManifest(
                f"keep_largest {self.keep_largest} and min_ml {self.min_ml} must not be negative."
            )


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
        _freeze(self)
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
        _freeze(self, "trust")
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
        _freeze(self, "data")
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
        provenance, scores, licence, intended_use: for people and for the store.
        weights_sha256: SHA-256 of the ONNX graph without its metadata; set by ``models.export``.
        calibration: of the confidences; the default trusts nothing and leaves nothing out.
        fidelity: of other runtimes by their names, the least Dice of any mask with that of ONNX
            Runtime; see ``islet models compare``. One that is not named is not used.
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

    def __post_init__(self) -> None:
        _freeze(self, "patch", "divisor", "outputs", "cleanup")
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
        if not 0 <= self.overlap < 1:
            found.append(f"overlap {self.overlap} must be in [0, 1)")
        if self.activation not in ("softmax", "sigmoid"):
            found.append(f"activation must be softmax or sigmoid, not {self.activation!r}")
        if not all(0 <= dice <= 1 for dice in self.fidelity.values()):
            found.append(f"fidelity {self.fidelity} must be Dice, from 0 to 1")
        trusted = (entry.structure for entry in self.calibration.trust)
        named = (*self.outputs, *(step.structure for step in self.cleanup), *trusted)
        unknown = [name for name in named if name not in BY_NAME]
        if unknown or not self.outputs or len(set(self.outputs)) != len(self.outputs):
            found.append(f"outputs must be distinct structures; not known: {unknown}")
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
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadManifest(
                f"The manifest does not parse ({type(error).__name__}: {error}); correct it, or "
                "export the model again with `islet export`."
            ) from error


def _freeze(value: Any, *names: str) -> None:
    """Turn lists that came from JSON into tuples, so that a frozen value is one; check all types.

    Raises:
        BadManifest: a field of another type than it is declared with, or a number that JSON has
            not (NaN, infinity).
    """
    for name in names:
        if isinstance(getattr(value, name), list):
            object.__setattr__(value, name, tuple(getattr(value, name)))
    hints = get_type_hints(type(value))
    for declared in dataclasses.fields(value):
        found = getattr(value, declared.name)
        if not _fits(found, hints[declared.name]):
            raise BadManifest(f"{declared.name} must be {declared.type}, not {repr(found)[:80]}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is one of a declared type; only the types that a manifest is made of."""
    args = get_args(hint)
    if hint is Any:
        return _is_json(value)
    if get_origin(hint) is UnionType:
        return any(_fits(value, option) for option in args)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(
            _fits(k, args[0]) and _fits(v, args[1]) for k, v in value.items()
        )
    if get_origin(hint) is tuple:
        options = args[:1] * len(value) if args[-1] is ... else args
        return (
            isinstance(value, tuple)
            and len(value) == len(options)
            and all(map(_fits, value, options))
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        # To Python True is an integer; to a manifest it is not.
        return isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    return math.isfinite(value) and (hint is float or (hint is int and isinstance(value, int)))


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return False
    return True

"""What a caller may ask for; the command line and HTTP parse and check it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imaging.errors import BadParameter
from models.labels import DEFAULT_MASKS, members, structure
from models.manifest import Manifest
from serving.engines import check_device
from serving.outputs import DICOM_FILES, OUTPUTS, check_outputs
from serving.settings import Settings

# Every parameter of a job, in the query or in the form.
PARAMETERS = ("model", "structures", "outputs", "series", "device", "doubtful", "priority")
# These may come several times, and hold several words with commas.
_LISTS = ("structures", "outputs")
# What to do with what the model does not trust: leave it out of the masks, or keep it.
DOUBTFUL = ("drop", "keep")
PRIORITIES: dict[str, int] = {"low": 0, "normal": 10, "high": 20}


@dataclass(frozen=True)
class Options:
    """One segmentation.

    Attributes:
        model: reference into the store.
        masks: names of the masks to return, each once, in the caller's order; none asks for the
            default masks, as many of them as the model can find.
        series: SeriesInstanceUID where the input holds several.
        device: ``auto``, ``cpu`` or ``cuda``.
        outputs: what to make of the result, each once, in the order of ``serving.outputs.OUTPUTS``.
        doubtful: ``drop`` or ``keep`` what has less confidence than the model's manifest asks for.

    Raises:
        BadParameter: no such mask, device, output or word for ``doubtful``.
    """

    model: str = Settings.model
    masks: tuple[str, ...] = ()
    series: str | None = None
    device: str = Settings.device
    outputs: tuple[str, ...] = OUTPUTS[:1]
    doubtful: str = DOUBTFUL[0]

    def __post_init__(self) -> None:
        check_device(self.device)
        for mask in self.masks:
            members(mask)
        object.__setattr__(self, "masks", tuple(dict.fromkeys(self.masks)))
        object.__setattr__(self, "outputs", check_outputs(self.outputs))
        if self.doubtful not in DOUBTFUL:
            raise BadParameter(
                f"doubtful must be one of {', '.join(DOUBTFUL)}, not {self.doubtful[:64]!r}.",
                parameter="doubtful",
                known=list(DOUBTFUL),
            )

    @property
    def dicom(self) -> tuple[str, ...]:
        """Those of the outputs that refer to the CT's DICOM headers."""
        return tuple(name for name in self.outputs if name in DICOM_FILES)

    def to_json(self) -> dict[str, Any]:
        """The options as a job's record keeps them."""
        return {
            "model": self.model,
            "masks": list(self.masks),
            "series": self.series,
            "device": self.device,
            "outputs": list(self.outputs),
            "doubtful": self.doubtful,
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Options:
        """The options that :meth:`to_json` gave."""
        lists = {name: tuple(found[name]) for name in ("masks", "outputs")}
        return cls(**(dict(found) | lists))

    def masks_of(self, manifest: Manifest) -> tuple[str, ...]:
        """The masks that a model gives for these options.

        Raises:
            BadParameter: a mask was asked for by name and the model looks for none of its
                structures.
        """
        missing = [mask for mask in self.masks if not available(mask, manifest)]
        if missing:
            raise BadParameter(
                f"{manifest.name} cannot find {missing[0]}: it looks for "
                f"{', '.join(manifest.outputs)}. Ask for one of these or use another model.",
                structure=missing[0],
                available=list(manifest.outputs),
            )
        default = tuple(mask for mask in DEFAULT_MASKS if available(mask, manifest))
        return self.masks or default or manifest.outputs

    def organs_alone(self, manifest: Manifest) -> bool:
        """Whether every asked mask holds whole organs, so that no lesion need be told from one.

        ``False`` for a model that cannot look for organs alone.
        """
        asked = [{s.name for s in members(mask)} for mask in self.masks_of(manifest)]
        families = [
            {n for n in manifest.outputs if n == organ or structure(n).parent == organ}
            for organ in manifest.organs
        ]
        return bool(families) and all(
            mask >= family for mask in asked for family in families if mask & family
        )

    def notes(self, manifest: Manifest) -> tuple[str, ...]:
        """A sentence for each default mask that is missing because the model cannot find it."""
        return tuple(
            f"{mask} was not looked for: {manifest.name} looks for {', '.join(manifest.outputs)}."
            for mask in DEFAULT_MASKS
            if not self.masks and not available(mask, manifest)
        )


def available(mask: str, manifest: Manifest) -> bool:
    """Whether a model looks for at least one of the structures in the mask."""
    return any(s.name in manifest.outputs for s in members(mask))


def split_words(values: Iterable[str]) -> tuple[str, ...]:
    """Words from values that each hold one or several, separated by commas."""
    words = [word.strip() for value in values for word in value.split(",")]
    return tuple(w for w in words if w)


def from_parameters(given: Mapping[str, Sequence[str]], settings: Settings) -> Options:
    """Options from named parameters, each with the values it was given.

    ``priority`` is looked at by :func:`priority_of` and passes here.

    Raises:
        BadParameter: an unknown name, a parameter given twice, or a value outside its range.
    """
    _check_names(given)
    one = {name: values[0] for name, values in given.items() if values and values[0]}
    return Options(
        model=one.get("model", settings.model),
        masks=split_words(given.get("structures", ())),
        series=one.get("series"),
        device=one.get("device", settings.device),
        outputs=split_words(given.get("outputs", ())) or Options.outputs,
        doubtful=one.get("doubtful", Options.doubtful),
    )


def priority_of(given: Mapping[str, Sequence[str]]) -> int:
    """The number behind the parameter ``priority``; higher ones run first.

    Raises:
        BadParameter: no such priority, or given twice.
    """
    words = [word for word in given.get("priority", ()) if word] or ["normal"]
    if len(words) > 1 or words[0] not in PRIORITIES:
        raise BadParameter(
            f"There is no priority {','.join(words)[:64]!r}; use one of {', '.join(PRIORITIES)}.",
            parameter="priority",
            known=list(PRIORITIES),
        )
    return PRIORITIES[words[0]]


def _check_names(given: Mapping[str, Sequence[str]]) -> None:
    for name, values in given.items():
        if name not in PARAMETERS:
            raise BadParameter(
                f"There is no parameter {name[:64]!r}; there are {', '.join(PARAMETERS)}.",
                parameter=name[:64],
                known=list(PARAMETERS),
            )
        if name not in _LISTS and len(values) > 1:
            raise BadParameter(
                f"{name} is given {len(values)} times; give it once.", parameter=name
            )

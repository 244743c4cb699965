"""What a caller may ask for; the command line and HTTP parse and check it here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from imaging.errors import BadParameter
from models.labels import DEFAULT_MASKS, members
from models.manifest import Manifest
from serving.engine import check_device
from serving.settings import Settings

# Every parameter of POST /v1/segment, in the query or in the form.
PARAMETERS = ("model", "structures", "output", "series", "device")
OUTPUTS = ("nifti", "json")


@dataclass(frozen=True)
class Options:
    """One segmentation.

    Attributes:
        model: reference into the store.
        masks: names of the masks to return, each once, in the caller's order; none asks for the
            default masks, as many of them as the model can find.
        series: SeriesInstanceUID where the input holds several.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        BadParameter: no such mask or device.
    """

    model: str = Settings.model
    masks: tuple[str, ...] = ()
    series: str | None = None
    device: str = Settings.device

    def __post_init__(self) -> None:
        object.__setattr__(self, "masks", tuple(dict.fromkeys(self.masks)))
        check_device(self.device)
        for mask in self.masks:
            members(mask)

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


def split_masks(values: Iterable[str]) -> tuple[str, ...]:
    """Mask names from values that each hold one or several, separated by commas."""
    names = [name.strip() for value in values for name in value.split(",")]
    return tuple(n for n in names if n)


def from_parameters(given: Mapping[str, Sequence[str]], settings: Settings) -> tuple[Options, str]:
    """Options and the output kind from named parameters, each with the values it was given.

    Raises:
        BadParameter: an unknown name, a parameter given twice, or a value outside its range.
    """
    for name, values in given.items():
        if name not in PARAMETERS:
            raise BadParameter(
                f"There is no parameter {name[:64]!r}; there are {', '.join(PARAMETERS)}.",
                parameter=name[:64],
                known=list(PARAMETERS),
            )
        if name != "structures" and len(values) > 1:
            raise BadParameter(
                f"{name} is given {len(values)} times; give it once.", parameter=name
            )
    one = {name: values[0] for name, values in given.items() if values and values[0]}
    output = one.get("output", OUTPUTS[0])
    if output not in OUTPUTS:
        raise BadParameter(
            f"There is no output {output[:64]!r}; use one of {', '.join(OUTPUTS)}.",
            parameter="output",
            known=list(OUTPUTS),
        )
    options = Options(
        model=one.get("model", settings.model),
        masks=split_masks(given.get("structures", ())),
        series=one.get("series"),
        device=one.get("device", settings.device),
    )
    return options, output

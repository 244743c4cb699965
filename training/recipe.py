"""What a training is: one frozen value; a named recipe is a function that returns one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from imaging.errors import BadParameter
from models.labels import structure
from models.manifest import Cleanup, Intensity, Sampling


@dataclass(frozen=True)
class Augment:
    """Random changes of one training patch; zeros switch a change off.

    Attributes:
        rotate_deg: largest rotation about each axis (Z, Y, X); a 2D patch turns about Z only.
        scale: (smallest, largest) zoom.
        shift: largest shift as a part of the patch.
        contrast: (least, most) factor on enhancement above unenhanced soft tissue (45 HU): 0 is a
            scan without contrast agent, over 1 an earlier or stronger phase.
        organ_hu: largest shift of each labelled structure's own mean, HU.
        noise_hu: largest standard deviation of added noise.
        blur_mm: largest Gaussian blur.
        offset_hu: largest shift of the whole scan.
    """

    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    organ_hu: float = 0.0
    noise_hu: float = 0.0
    blur_mm: float = 0.0
    offset_hu: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """An optimizer and its schedule.

    Attributes:
        name: ``adamw``, ``nadam`` or ``sgd`` (Nesterov, momentum 0.99).
        lr: initial learning rate.
        schedule: ``cosine`` to 1 % of ``lr`` over all steps, ``plateau`` (a tenth after 2 epochs
            without a better validation loss) or ``constant``.
        weight_decay: decoupled for adamw.
        clip: largest gradient norm, 0 for none.
    """

    name: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    clip: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "nadam", "sgd"):
            raise BadParameter(f"optimizer must be adamw, nadam or sgd, not {self.name!r}.")
        if self.schedule not in ("cosine", "plateau", "constant"):
            raise BadParameter(
                f"schedule must be cosine, plateau or constant, not {self.schedule!r}."
            )


@dataclass(frozen=True)
class Recipe:
    """A training, whole.

    Attributes:
        name: of the recipe and of the model it makes.
        architecture, options: of ``models.architectures.build``.
        outputs: structures of the model; ``merge`` maps further labels onto them.
        merge: structure to structure, e.g. a tumor trained as its organ.
        activation, sampling, intensity, patch, overlap, cleanup: of the manifest.
        loss: ``marginal_log_dice_ce`` (softmax, partial labels) or ``dice`` (one sigmoid
            structure).
        smooth: added to Dice's numerator and denominator, in voxels. What is smaller in a patch
            pulls less: specks of organs at its border, and lesions before their organs are found.
        steps, steps_per_epoch, batch: length of the training.
        optimizer, augment: see there.
        foreground: part of the patches that are centred on a labelled voxel.
        slab: take patches only from slices within so many of a labelled one (0: from everywhere).
        phantoms, phantom_share: how many phantoms join the cases, and their part of the patches.
        plant: probability that a patch of a case without lesion labels gets a planted lesion.
        lesion_free: take the structures named here as absent, not unknown, in cases that do not
            annotate them; an assumption that the model card must state.
        patience: epochs without a better validation loss before stopping early (0: never).
        seed: of everything random.
    """

    name: str
    architecture: str
    outputs: tuple[str, ...]
    sampling: Sampling
    intensity: Intensity
    patch: tuple[int, int, int]
    options: dict[str, Any] = field(default_factory=dict)
    merge: dict[str, str] = field(default_factory=dict)
    activation: str = "softmax"
    overlap: float = 0.25
    cleanup: tuple[Cleanup, ...] = ()
    loss: str = "marginal_log_dice_ce"
    smooth: float = 1.0
    steps: int = 1000
    steps_per_epoch: int = 100
    batch: int = 1
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    foreground: float = 0.5
    slab: int = 0
    phantoms: int = 0
    phantom_share: float = 0.0
    plant: float = 0.0
    lesion_free: tuple[str, ...] = ()
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.outputs, *self.merge, *self.merge.values(), *self.lesion_free):
            structure(name)
        if self.loss not in ("marginal_log_dice_ce", "dice"):
            raise BadParameter(f"loss must be marginal_log_dice_ce or dice, not {self.loss!r}.")
        if self.loss == "dice" and (self.activation != "sigmoid" or len(self.outputs) != 1):
            raise BadParameter("The dice loss trains one sigmoid structure.")
        if self.loss == "marginal_log_dice_ce" and self.activation != "softmax":
            raise BadParameter(f"marginal_log_dice_ce trains a softmax, not {self.activation!r}.")
        if not set(self.lesion_free) <= set(self.outputs):
            raise BadParameter(f"lesion_free {self.lesion_free} must be among the outputs.")
        if min(self.steps, self.steps_per_epoch, self.batch) < 1:
            raise BadParameter("steps, steps_per_epoch and batch must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise BadParameter(f"seed must be from 0 to 2**32 - 1, not {self.seed}.")

    @property
    def channels(self) -> int:
        """Channels of the network, the background's included."""
        return len(self.outputs) + (self.activation == "softmax")

    def to_json(self) -> str:
        """Canonical JSON, for checkpoints and logs."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe of :meth:`to_json`.

        Raises:
            BadParameter: not a recipe of this version.
        """
        try:
            raw = json.loads(text)
            raw["sampling"] = Sampling(**raw["sampling"])
            raw["intensity"] = Intensity(**raw["intensity"])
            raw["cleanup"] = tuple(Cleanup(**c) for c in raw["cleanup"])
            raw["optimizer"] = Optimizer(**raw["optimizer"])
            raw["augment"] = Augment(**{k: _tuple(v) for k, v in raw["augment"].items()})
            return cls(**{k: _tuple(v) for k, v in raw.items()})
        except (ValueError, TypeError, KeyError) as error:
            raise BadParameter(
                f"This is no recipe of this version ({error}); train again."
            ) from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value

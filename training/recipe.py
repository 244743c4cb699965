"""What a training is: one frozen value; a named recipe is a function that returns one."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

from imaging.errors import BadParameter
from models.labels import structure
from models.manifest import Cleanup, Intensity, Sampling

Scale = Literal["tiny", "small", "paper"]
SCALES: tuple[Scale, ...] = ("tiny", "small", "paper")

# Organ and tumor of one dynamic head; ``None`` where a data set does not label that one.
Task = tuple[str | None, str | None]

_OPTIMIZERS = ("adam", "adamw", "nadam", "sgd")
_SCHEDULES = ("cosine", "poly", "plateau", "constant")
# Losses by the activation they train.
_LOSSES = {
    "dice": "sigmoid",
    "task_dice_bce": "sigmoid",
    "softmax_dice": "softmax",
    "dice_ce": "softmax",
    "hec": "softmax",
}


@dataclass(frozen=True)
class Augment:
    """Random changes of one training patch; the defaults change nothing.

    The first group is geometry, the second works in Hounsfield units, the third on the network's
    input, as nnU-Net does it.

    Attributes:
        affine_p: probability that a patch is turned, scaled and shifted at all.
        rotate_deg: largest rotation about each axis (Z, Y, X); a 2D patch turns about Z only.
        scale: (smallest, largest) zoom.
        shift: largest shift as a part of the patch.
        mirror: axes (Z, Y, X) along which a patch is turned over every second time.
        contrast: (least, most) factor on enhancement above unenhanced soft tissue (45 HU): 0 is a
            scan without contrast agent, over 1 an earlier or stronger phase.
        organ_hu: largest shift of each labelled structure's own mean, HU.
        noise_hu: largest standard deviation of added noise.
        blur_mm: largest Gaussian blur.
        offset_hu: largest shift of the whole scan.
        input_p: probability of each of the following.
        brightness: (least, most) factor on the input.
        spread: (least, most) factor on the input's distance from its mean.
        gamma: (least, most) exponent on the input brought to 0..1.
        input_noise: largest standard deviation of noise added to the input.
    """

    affine_p: float = 1.0
    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    mirror: tuple[bool, bool, bool] = (False, False, False)
    contrast: tuple[float, float] = (1.0, 1.0)
    organ_hu: float = 0.0
    noise_hu: float = 0.0
    blur_mm: float = 0.0
    offset_hu: float = 0.0
    input_p: float = 0.15
    brightness: tuple[float, float] = (1.0, 1.0)
    spread: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    input_noise: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """An optimizer and its schedule.

    Attributes:
        name: ``adam``, ``adamw``, ``nadam`` or ``sgd`` (Nesterov).
        lr: initial learning rate.
        schedule: ``cosine``, ``poly`` (exponent 0.9, by epoch), ``plateau`` (a tenth after 2 epochs
            without a better validation loss; training loss where nothing validates) or
            ``constant``.
        weight_decay: decoupled for adamw.
        clip: largest gradient norm, 0 for none.
        floor: what a cosine falls to, as a part of ``lr``.
        period: epochs that a cosine takes to fall, after which it climbs again; 0 for the whole
            training.
        momentum: of ``sgd``.
    """

    name: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    clip: float = 1.0
    floor: float = 0.01
    period: int = 0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.name not in _OPTIMIZERS:
            raise BadParameter(
                f"optimizer must be one of {', '.join(_OPTIMIZERS)}, not {self.name!r}."
            )
        if self.schedule not in _SCHEDULES:
            raise BadParameter(
                f"schedule must be one of {', '.join(_SCHEDULES)}, not {self.schedule!r}."
            )


@dataclass(frozen=True)
class Loss:
    """A loss of :mod:`training.losses` and its figures.

    Attributes:
        name: ``dice`` (one sigmoid structure), ``softmax_dice``, ``dice_ce``, ``hec`` (``dice_ce``
            and the hierarchical cross-entropies of KiTS21) or ``task_dice_bce`` (DoDNet's dynamic
            head).
        log_dice: the negative logarithm of Dice in place of 1 - Dice, in all but the pure Dice
            losses: with it small organs are learned within hundreds of steps, without it not.
        smooth: added to Dice's numerator and denominator (DoDNet's: to the denominator alone), in
            voxels. What is smaller in a patch pulls less: specks of organs at its border, and
            lesions before their organs are found.
        batch_dice: one Dice for each structure over the batch instead of one a sample.
        unlabelled: what a voxel without a label is where a case does not annotate a structure:
            ``unknown``, or ``background`` as in plain pooling of partly labelled sets.
        hec: weights of kidney and masses, and of masses.
        kl, reconstruction: weights of a variational branch's two losses; 0 where there is none.
    """

    name: str = "dice_ce"
    log_dice: bool = False
    smooth: float = 1.0
    batch_dice: bool = False
    unlabelled: str = "unknown"
    hec: tuple[float, float] = (0.1, 0.3)
    kl: float = 0.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _LOSSES:
            raise BadParameter(f"loss must be one of {', '.join(_LOSSES)}, not {self.name!r}.")
        if self.unlabelled not in ("unknown", "background"):
            raise BadParameter(
                f"unlabelled must be unknown or background, not {self.unlabelled!r}."
            )

    @property
    def activation(self) -> str:
        """What the loss trains: ``softmax`` or ``sigmoid``."""
        return _LOSSES[self.name]


@dataclass(frozen=True)
class Recipe:
    """A training, whole.

    Attributes:
        name: of the recipe and of the model it makes.
        scale: ``paper``, or the size it was made smaller to.
        architecture, options: of ``models.architectures.build``.
        outputs: structures of the model. A lesion it does not name is part of its organ.
        activation, sampling, intensity, patch, overlap, cleanup: of the manifest.
        loss: see there.
        tasks: for a dynamic head, the organ and tumor of each task in the order of the head's
            one-hot code; a patch trains one task that its case annotates.
        pretrain: name of the recipe whose weights this one starts from.
        steps, steps_per_epoch, batch: length of the training; ``batch`` is that of all processes.
        optimizer, augment: see there.
        foreground: part of the patches that are centred on a labelled voxel; each structure that a
            case has is drawn as often as every other.
        foreground_box: centre them anywhere in the labels' box, grown by so many voxels, instead.
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
    scale: Scale = "paper"
    options: dict[str, Any] = field(default_factory=dict)
    activation: str = "softmax"
    overlap: float = 0.25
    cleanup: tuple[Cleanup, ...] = ()
    loss: Loss = Loss()
    tasks: tuple[Task, ...] = ()
    pretrain: str = ""
    steps: int = 1000
    steps_per_epoch: int = 100
    batch: int = 1
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    foreground: float = 0.5
    foreground_box: int | None = None
    slab: int = 0
    phantoms: int = 0
    phantom_share: float = 0.0
    plant: float = 0.0
    lesion_free: tuple[str, ...] = ()
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.outputs, *self.lesion_free):
            structure(name)
        self._check_loss()
        if not set(self.lesion_free) <= set(self.outputs):
            raise BadParameter(f"lesion_free {self.lesion_free} must be among the outputs.")
        if min(self.steps, self.steps_per_epoch, self.batch) < 1:
            raise BadParameter("steps, steps_per_epoch and batch must be at least 1.")
        if not 0 <= self.seed < 2**32:
            raise BadParameter(f"seed must be from 0 to 2**32 - 1, not {self.seed}.")

    def _check_loss(self) -> None:
        if self.loss.activation != self.activation:
            raise BadParameter(
                f"The loss {self.loss.name} trains a {self.loss.activation}, not "
                f"{self.activation!r}."
            )
        if self.loss.name == "dice" and len(self.outputs) != 1:
            raise BadParameter(f"The dice loss trains one structure, not {self.outputs}.")
        if (self.loss.name == "task_dice_bce") != bool(self.tasks):
            raise BadParameter("Tasks and the loss task_dice_bce go together.")
        named = {name for task in self.tasks for name in task if name}
        if self.tasks and named != set(self.outputs):
            raise BadParameter(f"The tasks name {sorted(named)}, the outputs {self.outputs}.")

    @property
    def channels(self) -> int:
        """Channels of the network, the background's included."""
        if self.tasks:
            return 2
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
            raw = {key: _tuples(value) for key, value in json.loads(text).items()}
            raw["cleanup"] = tuple(Cleanup(**c) for c in raw["cleanup"])
            kinds = {
                "sampling": Sampling,
                "intensity": Intensity,
                "loss": Loss,
                "optimizer": Optimizer,
                "augment": Augment,
            }
            for key, kind in kinds.items():
                raw[key] = kind(**{k: _tuples(v) for k, v in raw[key].items()})
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadParameter(
                f"This is no recipe of this version ({error}); train again."
            ) from error


def _tuples(value: Any) -> Any:
    """Lists as tuples, all the way down; what is no list stays as it is."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value

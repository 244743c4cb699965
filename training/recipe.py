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
# Fields of Augment that are (least, largest).
_RANGES = (
    *("scale", "organ_scale", "contrast", "thick_mm", "field_mm"),
    *("brightness", "spread", "gamma"),
)


@dataclass(frozen=True)
class Augment:
    """Random changes of one training patch; the defaults change nothing.

    The first group is geometry, the second works in Hounsfield units, the third is the scanner's,
    the fourth works on the network's input, as nnU-Net does it. What ends in ``_p`` is the
    probability of that change in a patch.

    Attributes:
        affine_p: probability that a patch is turned, scaled, shifted and bent at all.
        rotate_deg: largest rotation about each axis (Z, Y, X); a 2D patch turns about Z only.
        scale: (smallest, largest) zoom.
        shift: largest shift as a part of the patch.
        bend_mm: largest standard deviation of the shifts of control points 24 to 56 mm apart,
            between which cubic B-splines bend the body; about half of it arrives at a voxel.
        organ_scale: (smallest, largest) zoom of one labelled organ, fading out around it.
        mirror: axes (Z, Y, X) along which a patch is turned over every second time.
        phase_p: another contrast phase: organs get its typical HU, vessels and bowel follow.
        plain_p: part of them without contrast agent; four phases with one share the rest.
        filling_p: other contents of stomach, duodenum, colon and pockets of gas: a contrast agent
            that was drunk, water, gas.
        around_p: objects in the air around the body: table, arm, blanket, cable.
        contrast: (least, most) factor on enhancement above unenhanced soft tissue (45 HU): 0 is a
            scan without contrast agent, over 1 an earlier or stronger phase.
        organ_hu: largest shift of each labelled structure's own mean, HU.
        offset_hu: largest shift of the whole scan.
        blur_mm: largest Gaussian blur.
        sharpen: largest gain of an unsharp mask in the slice's plane, where nothing was blurred.
        noise_hu: largest standard deviation of added noise.
        grain_mm: largest standard deviation of the Gaussian that correlates noise in the slice's
            plane, reached after the softest kernel; 0 leaves it white.
        starve: part of the noise's draws that are stronger where rays cross more of the body.
        streak_hu: largest standard deviation of streaks from left to right where the body is
            widest.
        thick_p, thick_mm: slices of a (least, largest) thickness.
        field_p, field_mm: a field of view of a (least, largest) radius; air around it.
        cut_p: the scan ends within the patch, above or below.
        input_p: probability of each of the following.
        brightness: (least, most) factor on the input.
        spread: (least, most) factor on the input's distance from its mean.
        gamma: (least, most) exponent on the input brought to 0..1.
        input_noise: largest standard deviation of noise added to the input.

    Raises:
        BadParameter: a probability outside 0..1, a range that is not (least, largest), a negative
            strength.
    """

    affine_p: float = 1.0
    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    shift: float = 0.0
    bend_mm: float = 0.0
    organ_scale: tuple[float, float] = (1.0, 1.0)
    mirror: tuple[bool, bool, bool] = (False, False, False)
    phase_p: float = 0.0
    plain_p: float = 0.4
    filling_p: float = 0.0
    around_p: float = 0.0
    contrast: tuple[float, float] = (1.0, 1.0)
    organ_hu: float = 0.0
    offset_hu: float = 0.0
    blur_mm: float = 0.0
    sharpen: float = 0.0
    noise_hu: float = 0.0
    grain_mm: float = 0.0
    starve: float = 0.0
    streak_hu: float = 0.0
    thick_p: float = 0.0
    thick_mm: tuple[float, float] = (2.5, 5.0)
    field_p: float = 0.0
    field_mm: tuple[float, float] = (120.0, 200.0)
    cut_p: float = 0.0
    input_p: float = 0.15
    brightness: tuple[float, float] = (1.0, 1.0)
    spread: tuple[float, float] = (1.0, 1.0)
    gamma: tuple[float, float] = (1.0, 1.0)
    input_noise: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_p") or name == "starve":
                if not 0 <= value <= 1:
                    raise BadParameter(f"{name} must be from 0 to 1, not {value}.")
            elif isinstance(value, float | int) and value < 0:
                raise BadParameter(f"{name} must be 0 or more, not {value}.")
        for name in _RANGES:
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise BadParameter(f"{name} must be (least, largest), not {(low, high)}.")


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
        averaging: the rate while weights are averaged, as a part of ``lr``.
        period: epochs that a cosine takes to fall, after which it climbs again; 0 for the whole
            training.
        momentum: of ``sgd``.
        warmup: first steps, over which the rate climbs to ``lr``.
    """

    name: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    weight_decay: float = 1e-4
    clip: float = 1.0
    floor: float = 0.01
    averaging: float = 0.5
    period: int = 0
    momentum: float = 0.99
    warmup: int = 0

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
        within: weight of the cross-entropy of organ against lesions over the organ's own voxels,
            in ``dice_ce`` and ``hec``.
        hec: weights of kidney and masses, and of masses.
        kl, reconstruction: weights of a variational branch's two losses; 0 where there is none.
    """

    name: str = "dice_ce"
    log_dice: bool = False
    smooth: float = 1.0
    batch_dice: bool = False
    unlabelled: str = "unknown"
    within: float = 0.0
    hec: tuple[float, float] = (0.1, 0.3)
    kl: float = 0.0
    reconstruction: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _LOSSES:
            raise BadParameter(f"loss must be one of {', '.join(_LOSSES)}, not {self.name!r}.")
        if self.within and self.name not in ("dice_ce", "hec"):
            raise BadParameter(f"within belongs to dice_ce and hec, not to {self.name}.")
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
        activation, sampling, intensity, patch, overlap, cleanup, edge_mm: of the manifest.
        window: the manifest's patch where it is not the training's; ``None`` leaves the choice to
            ``training.package.inference_patch``.
        half: keep the exported model's large weights as float16, for half the size.
        loss: see there.
        tasks: for a dynamic head, the organ and tumor of each task in the order of the head's
            one-hot code; a patch trains one task that its case annotates.
        pretrain: name of the recipe whose weights this one starts from.
        parts: of a network that is made of several, the name of the recipe that each is trained by,
            by the module's name; see :mod:`training.joining`.
        steps, steps_per_epoch, batch: length of the training; ``batch`` is that of all processes.
        optimizer, augment: see there.
        averaged: part of the steps, at the end, over which the weights are averaged; their mean is
            the result (:mod:`training.averaging`), unless validation chooses an earlier epoch or
            stops early. The rate has fallen before, and is ``optimizer.averaging`` then. Batch
            norms should be frozen by then. At the sites of a federation it is the mean over all of
            their rounds' steps that the last update leads to.
        frozen_norms: part of the steps, at the end, in which batch norms keep the statistics that
            they have by then: what is trained is what will answer. Before it, with one patch a
            batch, they are instance norms that take notes.
        foreground: part of the patches that are centred on a labelled voxel; each structure that a
            case has is drawn as often as every other.
        foreground_box: centre them anywhere in the labels' box, grown by so many voxels, instead.
        slab: take patches only from slices within so many of a labelled one (0: from everywhere).
        phantoms, phantom_share: how many phantoms join the cases, and their part of the patches.
        copy_share: part of a patient's patches that come from changed copies (planted, reshaped),
            where the CT that they were made of is there too; ``None`` draws them like all cases.
        strangers: how many CTs without an abdomen are among the phantoms besides: what holds no
            organ is learned as well.
        plant: probability that a patch of a case without labels of a lesion gets a planted one, of
            each kind on its own.
        lesion_free: take the structures named here as absent, not unknown, in cases that do not
            annotate them; an assumption that the model card must state. A lesion that is no output
            is planted as well, and learned as its organ.
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
    window: tuple[int, int, int] | None = None
    half: bool = False
    cleanup: tuple[Cleanup, ...] = ()
    edge_mm: float = 0.0
    loss: Loss = Loss()
    tasks: tuple[Task, ...] = ()
    pretrain: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    steps: int = 1000
    steps_per_epoch: int = 100
    batch: int = 1
    optimizer: Optimizer = Optimizer()
    augment: Augment = Augment()
    averaged: float = 0.0
    frozen_norms: float = 0.0
    foreground: float = 0.5
    foreground_box: int | None = None
    slab: int = 0
    phantoms: int = 0
    phantom_share: float = 0.0
    copy_share: float | None = None
    strangers: int = 0
    plant: float = 0.0
    lesion_free: tuple[str, ...] = ()
    patience: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*self.outputs, *self.lesion_free):
            structure(name)
        self._check_loss()
        if not all({n, structure(n).parent} & set(self.outputs) for n in self.lesion_free):
            raise BadParameter(
                f"lesion_free {self.lesion_free} must be among the outputs, or lesions of them."
            )
        if min(self.steps, self.steps_per_epoch, self.batch) < 1:
            raise BadParameter("steps, steps_per_epoch and batch must be at least 1.")
        for name in ("averaged", "frozen_norms"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadParameter(f"{name} must be from 0 to 1, not {getattr(self, name)}.")
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

    @property
    def averaged_from(self) -> int:
        """The step after which weights are averaged; the last one where they are not."""
        return round((1 - self.averaged) * self.steps)

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

"""From a torch network to one self-describing ONNX file, held to the network it came from."""

from __future__ import annotations

import copy
import dataclasses
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor, nn

from imaging.errors import CorruptModel
from models.halves import rounded, store_halves
from models.manifest import Manifest
from models.onnxfile import ORGANS, embed, of_organs
from models.postprocess import decide

OPSET = 20
# Largest difference of a logit between torch and ONNX Runtime, relative to the largest logit.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime is from torch on the inputs that were tried.

    Attributes:
        max_difference: of logits, divided by the largest logit (at least 1).
        agreement: part of the voxels with the same decision.
    """

    max_difference: float
    agreement: float


@runtime_checkable
class Exportable(Protocol):
    """A network, or a part of one, that is written in another form than it is trained in."""

    def exportable(self) -> nn.Module:
        """A new module that gives the same in evaluation mode; the network stays as it is.

        It may leave out what only training needs, and make constants of what is one by then.
        """
        ...  # pragma: no cover


@runtime_checkable
class FindsOrgans(Protocol):
    """A network that finds organs first and then lesions in them.

    Attributes:
        organs: the network whose scores of organs hold their lesions.
        organ_channels: of the whole output, that of each channel of ``organs`` but the first.
        both: the answer is a pair: the scores, and what ``organs`` gives.
    """

    organs: nn.Module
    organ_channels: tuple[int, ...]
    both: bool


def export(
    network: nn.Module,
    manifest: Manifest,
    path: Path,
    samples: Sequence[NDArray[np.float32]] = (),
    half: bool = False,
) -> tuple[Manifest, Parity]:
    """Write a network as ONNX with its manifest inside, after comparing both.

    Args:
        network: takes (N, 1, *space), gives logits (N, C, *space); moved to the CPU and put
            into evaluation mode. It and its parts may be :class:`Exportable`; the comparison is
            with the network as it was given. Where it :class:`FindsOrgans`, these can be asked for
            alone (:func:`models.onnxfile.of_organs`), and are compared too.
        manifest: what the file will say of itself; its hash and its organs are filled in here.
        path: of the ``.onnx`` file; written only when the comparison holds.
        samples: real network inputs (N, 1, *space) to compare on, besides random ones.
        half: round the large weights to float16 and keep them so; the comparison is with the
            rounded network.

    Returns:
        The manifest as embedded, and the comparison's figures.

    Raises:
        CorruptModel: the exported graph computes something else than the network.
    """
    network = network.cpu().float().eval()
    network = rounded(network) if half else network
    channels = network.organ_channels if isinstance(network, FindsOrgans) else ()
    organs = tuple(manifest.outputs[channel - 1] for channel in channels)
    manifest = dataclasses.replace(manifest, organs=organs)
    model = _to_onnx(_written_form(network), manifest)
    model = store_halves(model) if half else model
    data, inputs = model.SerializeToString(), [*_random_inputs(manifest), *samples]
    parity = compare(network, data, manifest, inputs)
    _refuse_unlike(parity, manifest)
    if isinstance(network, FindsOrgans):
        alone = of_organs(data, manifest.name)
        _refuse_unlike(compare(network.organs, alone, manifest.of_organs(), inputs), manifest)
    return embed(model, manifest, path), parity


def _refuse_unlike(parity: Parity, manifest: Manifest) -> None:
    # Asked this way round, so that a difference that is no number is refused as well.
    if not (parity.max_difference <= TOLERANCE and parity.agreement >= 0.9999):
        raise CorruptModel(
            f"The exported {manifest.name} differs from its network by {parity.max_difference:.2e} "
            f"(agreement {parity.agreement:.5f}); do not use this export.",
            max_difference=parity.max_difference,
        )


def compare(
    network: nn.Module,
    data: bytes,
    manifest: Manifest,
    inputs: Sequence[NDArray[np.float32]],
) -> Parity:
    """Run both on the same inputs, and take the manifest's decisions from the scores of each.

    Args:
        network: in evaluation mode.
        data: the graph.
        manifest: of both.
        inputs: (N, 1, *space) each.
    """
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    differences, same, total = [], 0, 0
    for value in inputs:
        with torch.no_grad():
            expected = network(torch.from_numpy(value)).numpy()
        found = _run(session, value, manifest)
        differences.append(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        equal = _decisions(found, manifest) == _decisions(expected, manifest)
        same += int(np.count_nonzero(equal))
        total += equal.size
    return Parity(float(np.max(differences)), same / total)


def _run(
    session: onnxruntime.InferenceSession, value: NDArray[np.float32], manifest: Manifest
) -> NDArray[np.float32]:
    try:
        found: NDArray[np.float32] = session.run(None, {session.get_inputs()[0].name: value})[0]
    except (ort_errors.Fail, ort_errors.InvalidArgument, RuntimeError) as error:
        raise CorruptModel(
            f"The exported {manifest.name} does not run on an input of {value.shape}: a size is "
            "frozen into it; do not use this export."
        ) from error
    return found


def _decisions(scores: NDArray[np.float32], manifest: Manifest) -> NDArray[np.uint8]:
    """Labels (n, Z, Y, X) of scores (N, C, Z, Y, X), or (1, N, Y, X) of (N, C, Y, X)."""
    volumes = scores.swapaxes(0, 1)[None] if manifest.dims == 2 else scores
    return np.stack([decide(volume, manifest) for volume in volumes])


def _random_inputs(manifest: Manifest) -> list[NDArray[np.float32]]:
    """Two sizes and two batches, so that a size frozen into the graph is found."""
    rng = np.random.default_rng(0)
    small = _smallest(manifest)
    divisor = manifest.divisor[3 - manifest.dims :]
    larger = [s + d for s, d in zip(small, divisor, strict=True)]
    return [
        rng.standard_normal((n, 1, *size)).astype(np.float32)
        for n, size in ((1, small), (2, larger))
    ]


def _smallest(manifest: Manifest) -> list[int]:
    """A size whose coarsest level has two voxels a side: instance norm takes no single one."""
    return [max(2 * d, -(-16 // d) * d) for d in manifest.divisor[3 - manifest.dims :]]


class _ExactNorm(nn.Module):
    """Instance or group norm whose means are taken one axis at a time.

    ONNX Runtime sums all voxels of a group into one float32. Over millions of them, much of it
    air of one value, that is wrong by up to a hundredth of the largest logit at 96x160x160; a sum
    of sums is not, for a few per cent of time.
    """

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d | nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.affine = norm.eps, norm.affine
        self.groups = norm.num_groups if isinstance(norm, nn.GroupNorm) else None

    def forward(self, x: Tensor) -> Tensor:
        grouped = x
        if self.groups is not None:
            # Not ``unflatten``, whose trace has the example's sizes as constants.
            grouped = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
        centred = grouped - _mean(grouped)
        normal = centred * torch.rsqrt(_mean(centred * centred) + self.eps)
        if self.groups is not None:
            normal = normal.flatten(1, 2)
        if not self.affine:
            return normal
        shape = (1, -1, *[1] * (x.ndim - 2))
        return normal * self.weight.reshape(shape) + self.bias.reshape(shape)


def _mean(x: Tensor) -> Tensor:
    for axis in range(x.ndim - 1, 1, -1):
        x = x.mean(axis, keepdim=True)
    return x


def _written_form(network: nn.Module) -> nn.Module:
    """A copy that computes the same, in a way that ONNX Runtime computes well."""
    written = _with_parts_replaced(copy.deepcopy(_own_form(network))).eval()
    if isinstance(written, FindsOrgans):
        written.both = True
    return written


def _own_form(module: nn.Module) -> nn.Module:
    return module.exportable() if isinstance(module, Exportable) else module


def _with_parts_replaced(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d | nn.GroupNorm):
        return _ExactNorm(module)
    for name, child in list(module.named_children()):
        setattr(module, name, _with_parts_replaced(_own_form(child)))
    return module


def _to_onnx(network: nn.Module, manifest: Manifest) -> onnx.ModelProto:
    """Trace a network into a graph of free batch and sizes.

    By torch's older exporter: the newer one takes 9 to 24 s for the papers' networks, this one
    less than 1 s, and both are as close to the network. What a trace can freeze, a size or a
    batch, :func:`compare` finds.

    Every weight stays what it is in the network, under its name, so that a training can start
    from the file (:func:`models.onnxfile.read_weights`): nothing is folded into anything else and
    equal tensors are not merged. ONNX Runtime folds for itself when it loads the file.
    """
    example = torch.zeros((2, 1, *_smallest(manifest)))
    free = {0: "n", **dict(enumerate("zyx"[3 - manifest.dims :], 2))}
    outputs = ["scores", ORGANS] if manifest.organs else ["scores"]
    written = io.BytesIO()
    with _quiet_exporter():
        torch.onnx.export(
            network,
            (example,),
            written,  # type: ignore[arg-type]
            input_names=["image"],
            output_names=outputs,
            opset_version=OPSET,
            dynamo=False,
            dynamic_axes=dict.fromkeys(["image", *outputs], free),
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
        )
    model = onnx.load_model_from_string(written.getvalue())
    # A weight that is an input too could be given anew at each run, and is not folded when loaded.
    del model.graph.input[1:]
    # A tensor on the way to the scores; whoever wants it alone takes that part of the graph.
    model.graph.value_info.extend(model.graph.output[1:])
    del model.graph.output[1:]
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without its notes on its age, and on values that a trace takes for constants."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""A model's segmentation as a user of nibabel, MONAI and PyTorch writes it.

:mod:`benchmarks.end_to_end` compares the service with it. The network and its weights are those of
the released model; what is around it is the usual way: ``get_fdata``, MONAI's transforms, a window
of the recipe's training patch that slides by half of itself, logits brought back to the CT's whole
grid, ``argmax``, ``nibabel.save``. No organ is cleaned, no doubt is weighed, no edge is moved.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from monai.transforms import Orientation, ResampleToMatch, ScaleIntensityRange, Spacing
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.beside import answer
from imaging.errors import BadParameter
from imaging.threads import usable_cores
from models.postprocess import label_values
from models.store import default_store
from training.pretraining import start_from
from training.recipes import recipe
from training.trainer import initial_network

_OVERLAP = 0.5
_SCALES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}


@dataclass(frozen=True)
class Model:
    """What the pipeline needs of a model.

    Attributes:
        network: images (N, 1, Z, Y, X) to logits (N, C, Z, Y, X).
        spacing_mm: of its input (Z, Y, X).
        window_hu: that is mapped to ``scale`` and clipped.
        scale: the least and greatest value of its input.
        patch: the window's sides (Z, Y, X).
        values: the label of each channel.
    """

    network: Callable[[Tensor], Tensor]
    spacing_mm: tuple[float, float, float]
    window_hu: tuple[float, float]
    scale: tuple[float, float]
    patch: tuple[int, int, int]
    values: NDArray[np.uint8]


def load_model(reference: str) -> Model:
    """A published model as a PyTorch network, with its recipe's training patch.

    Args:
        reference: in the default store.

    Raises:
        BadParameter: not a 3D model with a softmax, one spacing an axis and a window; or its
            recipe makes another network.
        ModelNotFound: no such model.
    """
    stored = default_store().resolve(reference)
    manifest = stored.manifest
    spacing = manifest.sampling.spacing_mm
    plain = manifest.dims == 3 and manifest.activation == "softmax" and None not in spacing
    if not plain or manifest.intensity.scale not in _SCALES or manifest.provenance is None:
        raise BadParameter(
            f"{reference} is not written the usual way here: it must be 3D with a softmax, see one "
            "spacing an axis and a window of Hounsfield units, and name its recipe."
        )
    made_by = recipe(manifest.provenance.recipe)
    network = initial_network(made_by)
    network.load_state_dict(start_from(made_by, stored.path).state)
    z, y, x = (float(mm or 0) for mm in spacing)
    return Model(
        network.eval(),
        (z, y, x),
        manifest.intensity.window_hu,
        _SCALES[manifest.intensity.scale],
        made_by.patch,
        label_values(manifest),
    )


def segment(ct: Path, out: Path, model: Model) -> None:
    """Write the label map of a CT, both NIfTI, on the CT's own grid."""
    loaded = nibabel.load(ct)
    voxels = torch.from_numpy(loaded.get_fdata(dtype=np.float32))
    image = MetaTensor(voxels[None], affine=torch.from_numpy(loaded.affine))
    upright = Orientation("SPL", labels=None)(image)
    coarse = Spacing(model.spacing_mm, mode="bilinear")(upright)
    coarse = ScaleIntensityRange(*model.window_hu, *model.scale, clip=True)(coarse)
    with torch.inference_mode():
        logits = sliding_window_inference(
            coarse[None], model.patch, 1, model.network, overlap=_OVERLAP
        )[0]
    whole = ResampleToMatch(mode="bilinear", padding_mode="border")(logits, upright)
    labels = whole.argmax(0, keepdim=True)
    own = "".join(nibabel.aff2axcodes(loaded.affine))
    channels = Orientation(own, labels=None)(labels)[0].numpy()
    nibabel.save(nibabel.Nifti1Image(model.values[channels], loaded.affine), out)


def main() -> int:
    """Answer :class:`benchmarks.beside.Beside`: ``ct`` and ``out`` to ``seconds``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="starter")
    model = load_model(parser.parse_args().model)
    torch.set_num_threads(usable_cores())

    def work(request: dict[str, Any]) -> dict[str, float]:
        start = time.perf_counter()
        segment(Path(request["ct"]), Path(request["out"]), model)
        return {"seconds": time.perf_counter() - start}

    answer(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())

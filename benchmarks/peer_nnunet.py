"""nnU-Net v2's own predictor on one CT, on the CPU; started by :mod:`benchmarks.peers`.

It runs in an environment of its own (``benchmarks/peers.txt``) and imports nothing of Islet but
:mod:`benchmarks.beside`. Weights are untrained: they take as long as trained ones. Plans are made
by nnU-Net's own rule for how deep a network is at a patch and spacing, with its default network,
resampling and intensities of CT.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import (  # type: ignore[import-not-found]
    get_pool_and_conv_props,
)
from nnunetv2.inference.export_prediction import (  # type: ignore[import-not-found]
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.inference.predict_from_raw_data import (  # type: ignore[import-not-found]
    nnUNetPredictor,
)
from nnunetv2.inference.sliding_window_prediction import (  # type: ignore[import-not-found]
    compute_steps_for_sliding_window,
)
from nnunetv2.utilities.get_network_from_plans import (  # type: ignore[import-not-found]
    get_network_from_plans,
)
from nnunetv2.utilities.plans_handling.plans_handler import (  # type: ignore[import-not-found]
    PlansManager,
)
from scipy import ndimage
from torch import Tensor

from benchmarks.beside import answer

_NAME = "3d_fullres"
_STEP = 0.5
# Of nnU-Net's planner: features of the first stage and at most, least side of the last one.
_FEATURES, _MOST_FEATURES, _LEAST_SIDE = 32, 320, 4
_DEEPEST = 999999
# HU of the foreground, about those of TotalSegmentator's data; they change no time.
_HU = {"mean": -50.0, "std": 503.0, "percentile_00_5": -1004.0, "percentile_99_5": 1588.0}


@dataclass(frozen=True)
class Setting:
    """What nnU-Net is asked to do.

    Attributes:
        spacing_mm: isotropic.
        patch: (Z, Y, X).
        channels: of the output, the background among them.
    """

    spacing_mm: float
    patch: tuple[int, int, int]
    channels: int


class Peer:
    """nnU-Net's default: it resamples the CT, and all channels of its logits back to the CT's grid.

    Args:
        setting: what it is asked to do.
        ct: NIfTI.
        out: where the label map goes, without ``.nii.gz``.
    """

    def __init__(self, setting: Setting, ct: Path, out: Path) -> None:
        self._ct, self._out = ct, out
        self.setting = setting
        self.dataset = {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0} | {f"s{i}": i for i in range(1, setting.channels)},
            "file_ending": ".nii.gz",
        }
        self.plans = PlansManager(_plans(setting))
        self.configuration = self.plans.get_configuration(_NAME)
        torch.manual_seed(0)
        self.network = get_network_from_plans(
            self.configuration.network_arch_class_name,
            self.configuration.network_arch_init_kwargs,
            self.configuration.network_arch_init_kwargs_req_import,
            1,
            setting.channels,
            deep_supervision=False,
        )
        self.predictor = nnUNetPredictor(
            tile_step_size=_STEP,
            use_mirroring=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        self.predictor.manual_initialization(
            self.network,
            self.plans,
            self.configuration,
            [self.network.state_dict()],
            self.dataset,
            "nnUNetTrainer",
            None,
        )
        self.properties: dict[str, Any] = {}

    def read(self) -> Tensor:
        """The CT as the network sees it (1, Z, Y, X), from its file."""
        image, self.properties = self.plans.image_reader_writer_class().read_images([str(self._ct)])
        return self._prepared(image)

    def write(self, logits: Tensor) -> None:
        """The label map of logits (C, Z, Y, X), to its file."""
        export_prediction_from_logits(
            logits, self.properties, self.configuration, self.plans, self.dataset, str(self._out)
        )

    def whole(self) -> None:
        """From the CT's file to the label map's."""
        self.write(self.predictor.predict_logits_from_preprocessed_data(self.read()))

    def patches(self, grid: tuple[int, ...]) -> int:
        """How many the window visits on a grid (Z, Y, X), by nnU-Net's own count."""
        patch = self.setting.patch
        padded = tuple(max(n, p) for n, p in zip(grid, patch, strict=True))
        return math.prod(len(s) for s in compute_steps_for_sliding_window(padded, patch, _STEP))

    def _prepared(self, image: Any) -> Tensor:
        make = self.configuration.preprocessor_class(verbose=False).run_case_npy
        data, _, self.properties = make(
            image, None, self.properties, self.plans, self.configuration, self.dataset
        )
        return torch.from_numpy(data)


class Shrunk(Peer):
    """As TotalSegmentator asks nnU-Net: it gets the CT at its spacing, and gives labels there.

    The CT is shrunk by cubic splines and the label map brought back by the nearest voxel, so that
    no logits are resampled. TotalSegmentator also writes files in between, which is left out here.
    """

    def read(self) -> Tensor:
        mm = self.setting.spacing_mm
        image = nibabel.as_closest_canonical(nibabel.load(self._ct))
        zoom = [step / mm for step in image.header.get_zooms()]
        small = ndimage.zoom(image.get_fdata(), zoom, order=3).astype(np.int32)
        self.properties = {"spacing": [mm] * 3}
        return self._prepared(small.transpose(2, 1, 0)[None])

    def write(self, logits: Tensor) -> None:
        labels = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits,
            self.plans,
            self.configuration,
            self.predictor.label_manager,
            self.properties,
        ).transpose(2, 1, 0)
        given = nibabel.load(self._ct)
        upright = nibabel.as_closest_canonical(given)
        zoom = np.array(upright.shape) / labels.shape
        whole = nibabel.Nifti1Image(ndimage.zoom(labels, zoom, order=0), upright.affine)
        own = nibabel.io_orientation(given.affine)
        turn = nibabel.orientations.ornt_transform(nibabel.io_orientation(upright.affine), own)
        nibabel.save(whole.as_reoriented(turn), f"{self._out}.nii.gz")


# A network for the starter's structures as nnU-Net's defaults make it at TotalSegmentator's full
# resolution; and TotalSegmentator v2's --fast (Dataset297): 3 mm, this patch, 117 structures. Its
# plans were read at second hand; a network of five stages, as nnU-Net's rule gives for them, has
# the size of the published file.
SETTINGS: dict[str, tuple[type[Peer], Setting]] = {
    "nnunet": (Peer, Setting(1.5, (128, 128, 128), 8)),
    "totalsegmentator_3mm": (Shrunk, Setting(3.0, (112, 112, 128), 118)),
}


def _plans(setting: Setting) -> dict[str, Any]:
    """nnU-Net's plans, as its planner writes them."""
    spacing = [setting.spacing_mm] * 3
    rule = get_pool_and_conv_props(spacing, setting.patch, _LEAST_SIDE, _DEEPEST)
    strides, kernels = rule[1], rule[2]
    stages = len(strides)
    resampling = {"order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(setting.patch),
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": [
                    min(_MOST_FEATURES, _FEATURES * 2**i) for i in range(stages)
                ],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": kernels,
                "strides": strides,
                "n_conv_per_stage": [2] * stages,
                "n_conv_per_stage_decoder": [2] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    return {
        "dataset_name": "peer",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {"0": _HU},
        "label_manager": "LabelManager",
        "configurations": {_NAME: configuration},
    }


def about(peer: Peer) -> dict[str, Any]:
    """What it does around its network on the CT, measured once, and how many patches it visits."""
    start = time.perf_counter()
    data = peer.read()
    before = time.perf_counter() - start
    grid = tuple(data.shape[1:])
    # Half precision, as its window leaves them. All background deflates fastest.
    logits = torch.zeros((peer.setting.channels, *grid), dtype=torch.half)
    start = time.perf_counter()
    peer.write(logits)
    return {
        "before_s": before,
        "after_s": time.perf_counter() - start,
        "grid": grid,
        "patches": peer.patches(grid),
        "patch": peer.setting.patch,
        "spacing_mm": peer.setting.spacing_mm,
        "channels": peer.setting.channels,
        "stages": len(peer.configuration.pool_op_kernel_sizes),
        "parameters": sum(p.numel() for p in peer.network.parameters()),
        "versions": {name: version(name) for name in ("nnunetv2", "torch")},
    }


def main() -> None:
    """Answer :class:`benchmarks.beside.Beside`: ``do`` is ``about``, ``patch`` or ``whole``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("ct", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    kind, setting = SETTINGS[args.setting]
    peer = kind(setting, args.ct, args.out)
    patch = torch.randn(1, *setting.patch)

    def work(request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "about":
            return about(peer)
        start = time.perf_counter()
        if request["do"] == "whole":
            peer.whole()
        else:
            peer.predictor.predict_sliding_window_return_logits(patch)
        return {"seconds": time.perf_counter() - start}

    answer(work)


if __name__ == "__main__":
    main()

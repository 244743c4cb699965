"""OpenVINO, where it is installed: several times faster on CPUs, in bf16 where the CPU has it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imaging.errors import Cancelled, CorruptModel
from serving.engines.runtime import STOPPED, failure

if TYPE_CHECKING:
    import openvino

# What each precision is called in a manifest's fidelity, and to OpenVINO.
PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}


class OpenVino:
    """A compiled network on the CPU.

    Args:
        data: the model's file.
        reference: of the model, for errors.
        threads: of one inference.
        name: key of :data:`PRECISIONS`.

    Raises:
        CorruptModel: OpenVINO does not take the graph.
    """

    device = "cpu"

    def __init__(self, data: bytes, reference: str, threads: int, name: str) -> None:
        self.name = name
        self._reference = reference
        core = _core()
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[name],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        try:
            self._compiled = core.compile_model(core.read_model(data), "CPU", settings)
        except RuntimeError as error:
            raise CorruptModel(
                f"OpenVINO cannot run {reference}; export it again, or set ISLET_RUNTIME to "
                "onnxruntime.",
                model=reference,
            ) from error
        self._running: set[_Run] = set()

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        # A request a call: threads share the engine, and what a patch took is free after it.
        run = _Run(self._compiled.create_infer_request())
        self._running.add(run)
        try:
            run.request.start_async({0: patches}, share_inputs=True)
            run.request.wait()
            scores: NDArray[Any] = run.request.get_output_tensor(0).data
        except RuntimeError as error:
            if run.stopped:
                raise Cancelled(STOPPED) from error
            raise failure("OpenVINO", self._reference, self.device, error) from error
        finally:
            self._running.discard(run)
        return scores

    def stop(self) -> None:
        for run in tuple(self._running):
            run.stopped = True
            run.request.cancel()


@dataclass(eq=False)
class _Run:
    """An inference under way."""

    request: openvino.InferRequest
    stopped: bool = False


def usable() -> tuple[str, ...]:
    """The precisions that this machine runs, the fastest first; none where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return ()
    known = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("openvino-bf16", "openvino") if "BF16" in known else ("openvino",)


@cache
def _core() -> openvino.Core:
    import openvino

    return openvino.Core()

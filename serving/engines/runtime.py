"""What runs a network: the interface, and what its failures are called."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imaging.errors import ModelError

STOPPED = "The work was stopped inside the network."


class Runtime(Protocol):
    """A loaded network; threads may share it.

    Attributes:
        name: key of the manifest's ``fidelity``.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    device: str

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """Scores of network inputs: (N, 1, Y, X) or (N, 1, Z, Y, X) to (N, C, ...), float32.

        Raises:
            Cancelled: :meth:`stop` was called meanwhile.
            ModelError: the model does not run on such an input, or there is no memory.
        """

    def stop(self) -> None:
        """Break off the inferences that run now, from any thread; later ones run."""


def failure(runtime: str, reference: str, device: str, error: Exception) -> ModelError:
    """What is said of an inference that failed."""
    return ModelError(
        f"{runtime} failed over {reference} on {device} ({type(error).__name__}); check the file "
        "with `islet models check`, or ask for another device.",
        model=reference,
        device=device,
    )

"""How sites scan: slice thickness, field of view, contrast phase, noise and kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imaging.errors import BadParameter
from training.phantoms.patient import PHASES


@dataclass(frozen=True)
class SiteStyle:
    """How one hospital scans.

    Attributes:
        name: of the style.
        slice_mm: slice thickness and distance.
        matrix: pixels along x and y.
        field_of_view_mm: side of the square the matrix covers.
        phase: ``none``, ``arterial``, ``portal`` or ``late``.
        noise_hu: standard deviation of the noise.
        kernel_mm: standard deviation of the blur in the slice; negative sharpens as much.
        coverage_mm: length of the scan along z.
        table: whether the table is in the picture.

    Raises:
        BadParameter: a value outside its range.
    """

    name: str
    slice_mm: float
    matrix: int = 512
    field_of_view_mm: float = 400.0
    phase: str = "portal"
    noise_hu: float = 12.0
    kernel_mm: float = 0.6
    coverage_mm: float = 280.0
    table: bool = True

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise BadParameter(f"phase must be one of {', '.join(PHASES)}, not {self.phase!r}.")
        positive = (self.slice_mm, self.matrix, self.field_of_view_mm, self.coverage_mm)
        if min(positive) <= 0 or self.noise_hu < 0:
            raise BadParameter(
                f"Style {self.name!r} needs positive sizes and noise of at least 0: slice "
                f"{self.slice_mm} mm, matrix {self.matrix}, field of view "
                f"{self.field_of_view_mm} mm, coverage {self.coverage_mm} mm, noise "
                f"{self.noise_hu} HU."
            )


STYLES: dict[str, SiteStyle] = {
    style.name: style
    for style in (
        SiteStyle("a-thin-portal", 2.5, field_of_view_mm=390, noise_hu=14, kernel_mm=0.5),
        SiteStyle("b-thick-portal", 5.0, field_of_view_mm=420, noise_hu=8, kernel_mm=1.0),
        SiteStyle("c-noncontrast", 3.0, 512, 460, "none", 18, 0.8, 300),
        SiteStyle("d-arterial-noisy", 1.5, 512, 380, "arterial", 30, 0.3, 240),
        SiteStyle("e-late-sharp", 4.0, 512, 400, "late", 20, -0.6, 320, table=False),
    )
}


def sample_style(rng: np.random.Generator) -> SiteStyle:
    """A random style, wider than the named ones."""
    return SiteStyle(
        "random",
        slice_mm=round(float(rng.choice([1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0])), 2),
        field_of_view_mm=float(rng.uniform(340, 480)),
        phase=str(rng.choice(PHASES, p=[0.2, 0.2, 0.45, 0.15])),
        noise_hu=float(rng.uniform(5, 30)),
        kernel_mm=float(rng.uniform(-0.6, 1.2)),
        coverage_mm=float(rng.uniform(180, 340)),
        table=bool(rng.random() < 0.7),
    )

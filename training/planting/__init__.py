"""Real lesions planted into any labelled CT, real or phantom, to learn from and to test on."""

from training.lesions import Kind
from training.planting.cases import REAL, Planted, PlantedLesion, plant_case, taken_free
from training.planting.real import plant_real
from training.planting.shapes import PARTS, Part, Shape, Shapes

__all__ = [
    "PARTS",
    "REAL",
    "Kind",
    "Part",
    "Planted",
    "PlantedLesion",
    "Shape",
    "Shapes",
    "plant_case",
    "plant_real",
    "taken_free",
]

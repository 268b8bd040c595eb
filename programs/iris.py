"""Iris as an LM program: name the species from four measurements (Fisher 1936)."""

from __future__ import annotations

from typing import Literal

from harness import module

Species = Literal["setosa", "versicolor", "virginica"]


@module
def classify(sepal_length: float, sepal_width: float, petal_length: float, petal_width: float) -> Species:
    """Name the iris species from its petal and sepal dimensions in cm."""

"""The diffusion tensor of a series, and the maps made of it: FA, MD, AD and RD.

Fitted by weighted linear least squares on the logarithm of the signal, weights re-estimated from the fit (Veraart et
al., NeuroImage 2013). The maps are the tensor's invariants: they do not depend on how a table of gradients turns or
mirrors its axes, as long as all directions are in one frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.shared.errors import InvalidTable

Array = npt.NDArray[np.float64]

MAPS = ("FA", "MD", "AD", "RD")
"""Fractional anisotropy; mean, axial and radial diffusivity."""

UNWEIGHTED_S_MM2 = 50.0
"""Volumes with a smaller b-value count as unweighted."""
LARGEST_S_MM2 = 1500.0
"""Beyond it the signal does not fall like one exponential; such volumes are used only where nothing else is there."""
REWEIGHTED = 2
_CHUNK = 20_000
_PARAMETERS = 7
_LENGTH_TOLERANCE = 0.1


@dataclass(frozen=True)
class Gradients:
    """Table of a diffusion series.

    Parameters
    ----------
    b_values
        s/mm², shape (volumes,).
    directions
        Unit vectors, zero where unweighted, shape (volumes, 3).
    """

    b_values: Array
    directions: Array

    @property
    def unweighted(self) -> npt.NDArray[np.bool_]:
        """Which volumes have no diffusion weighting."""
        return np.asarray(self.b_values < UNWEIGHTED_S_MM2)

    def fitted(self) -> npt.NDArray[np.bool_]:
        """Return which volumes a tensor is fitted to: those up to :data:`LARGEST_S_MM2` where they suffice, else all.

        Raises
        ------
        InvalidTable
            Where the directions do not determine a tensor.
        """
        moderate = self.b_values <= LARGEST_S_MM2
        if np.linalg.matrix_rank(self.design()[moderate]) == _PARAMETERS:
            return np.asarray(moderate)
        rank = int(np.linalg.matrix_rank(self.design()))
        if rank < _PARAMETERS:
            raise InvalidTable(
                "the gradients do not determine a tensor",
                field="bval, bvec",
                expected="six directions that differ, and a second b-value",
                got=f"{rank} of {_PARAMETERS} unknowns from {len(self.b_values)} volumes",
                remedy="give the whole series with its table, or leave the series out",
            )
        return np.ones(len(self.b_values), dtype=bool)

    def design(self) -> Array:
        """Return the matrix of the log-linear model, (volumes, 7): Dxx, Dyy, Dzz, Dxy, Dxz, Dyz (µm²/ms), log S₀."""
        x, y, z = self.directions.T
        products = np.stack([x * x, y * y, z * z, 2 * x * y, 2 * x * z, 2 * y * z, np.zeros_like(x)], axis=1)
        weighted = -self.b_values[:, None] / 1000.0 * products
        weighted[:, -1] = 1.0
        return np.asarray(weighted)


def read_gradients(b_values: str, directions: str, *, volumes: int) -> Gradients:
    """Return the table of FSL's two text files: one row of b-values, three rows of directions.

    Directions as three columns are accepted too. They are scaled to unit length; that of an unweighted volume may be
    anything, as some tools write NaN.

    Parameters
    ----------
    volumes
        Volumes of the series.

    Raises
    ------
    InvalidTable
        Where a file is not a table of numbers, does not have a column for each volume, or holds a negative b-value or
        a direction that has no length.
    """
    b = _numbers(b_values, field="bval").ravel()
    g = _numbers(directions, field="bvec")
    if g.shape == (volumes, 3) != (3, 3):
        g = g.T
    if b.shape != (volumes,) or g.shape != (3, volumes):
        raise InvalidTable(
            "the table of gradients does not fit the series",
            field="bval, bvec",
            expected=f"{volumes} b-values, and 3 rows of {volumes} directions",
            got=f"{b.size} b-values, directions {' × '.join(map(str, g.shape))}",
            remedy="give the files that were exported with the series",
        )
    g = np.where(b >= UNWEIGHTED_S_MM2, g, 0.0)
    length = np.linalg.norm(g, axis=0)
    wrong = (b >= UNWEIGHTED_S_MM2) & ~(np.abs(length - 1) <= _LENGTH_TOLERANCE)
    if (b < 0).any() or wrong.any():
        raise InvalidTable(
            "a b-value is negative" if (b < 0).any() else "a weighted volume's direction is not a unit vector",
            field="bval" if (b < 0).any() else "bvec",
            expected="b-values of 0 or more, directions of length 1",
            got=f"volumes {', '.join(map(str, np.flatnonzero((b < 0) | wrong)[:5].tolist()))}",
        )
    return Gradients(b, (g / np.where(length > 0, length, 1.0)).T)


def _numbers(text: str, *, field: str) -> Array:
    try:
        rows = [[float(word) for word in line.replace(",", " ").split()] for line in text.splitlines() if line.strip()]
        table = np.array(rows, dtype=np.float64)
    except ValueError:
        table = np.empty((0, 0))
    if table.ndim != 2 or table.size == 0 or (field == "bval" and not np.isfinite(table).all()):
        raise InvalidTable("the table of gradients is not one of numbers", field=field, expected="rows of numbers")
    return table


def fit_tensor(signal: npt.NDArray[np.floating], gradients: Gradients) -> Array:
    """Return the tensor of each voxel: Dxx, Dyy, Dzz, Dxy, Dxz, Dyz in µm²/ms, shape (voxels, 6).

    Samples that are not positive take no part; a voxel with fewer than seven others, or whose samples do not
    determine a tensor, has the tensor 0.

    Parameters
    ----------
    signal
        Shape (voxels, volumes).
    """
    chosen = gradients.fitted()
    design = gradients.design()[chosen]
    squares = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    found = np.zeros((len(signal), _PARAMETERS))
    for start in range(0, len(signal), _CHUNK):
        part = np.asarray(signal[start : start + _CHUNK, chosen], dtype=np.float64)
        there = part > 0
        log_signal = np.log(np.where(there, part, 1.0))
        scale = np.maximum(part.max(axis=1, keepdims=True), 1.0)
        weights = np.where(there, part / scale, 0.0) ** 2
        fit = _solve(weights, log_signal, design, squares)
        for _ in range(REWEIGHTED):
            predicted = np.minimum(fit @ design.T - np.log(scale), 0.0)
            fit = _solve(np.where(there, np.exp(2 * predicted), 0.0), log_signal, design, squares)
        fit[there.sum(axis=1) < _PARAMETERS] = 0.0
        found[start : start + _CHUNK] = fit
    return found[:, :6]


def _solve(weights: Array, log_signal: Array, design: Array, squares: Array) -> Array:
    """Return the weighted least-squares solution of each voxel; 0 where the normal equations are singular."""
    normal = (weights @ squares).reshape(-1, _PARAMETERS, _PARAMETERS)
    right = (weights * log_signal) @ design
    sound = np.linalg.cond(normal) < 1e12
    normal[~sound] = np.eye(_PARAMETERS)
    right[~sound] = 0.0
    return np.asarray(np.linalg.solve(normal, right[..., None])[..., 0])


def tensor_maps(tensor: npt.NDArray[np.floating]) -> dict[str, Array]:
    """Return FA (0 to 1), and MD, AD and RD in the tensor's unit, each of shape (voxels,).

    Noise can make an eigenvalue negative, which no diffusivity is: it counts as 0.

    Parameters
    ----------
    tensor
        Dxx, Dyy, Dzz, Dxy, Dxz, Dyz, shape (voxels, 6).
    """
    xx, yy, zz, xy, xz, yz = np.asarray(tensor, dtype=np.float64).T
    matrix = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=1).reshape(-1, 3, 3)
    values = np.linalg.eigvalsh(matrix).clip(min=0.0)
    mean = values.mean(axis=1)
    norm = np.sqrt((values**2).sum(axis=1))
    spread = np.sqrt(((values - mean[:, None]) ** 2).sum(axis=1))
    anisotropy = np.sqrt(1.5) * np.divide(spread, norm, out=np.zeros_like(norm), where=norm > 0)
    return {"FA": anisotropy.clip(0.0, 1.0), "MD": mean, "AD": values[:, 2], "RD": values[:, :2].mean(axis=1)}

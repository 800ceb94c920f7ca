"""Bring intensities of scans that have no unit to one scale. Every method looks at the brain alone; outside is 0."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from services.shared.errors import InvalidVolume

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class Normalisation(StrEnum):
    """Ways to scale intensities."""

    Z_SCORE = "z_score"
    WHITE_STRIPE = "white_stripe"
    PERCENTILE_0_255 = "percentile_0_255"


@dataclass(frozen=True)
class Normalised:
    """A scaled volume, and the share of brain voxels whose intensity was clipped."""

    array: Array
    fraction_clipped: float


def z_score(array: Array, brain: Mask, *, tails_percent: float = 1.0) -> Normalised:
    """Return intensities as standard deviations from the brain's mean.

    Mean and standard deviation leave out both tails of the distribution, so that a few enhancing voxels or residual
    fat do not set the scale; the intensities themselves are not clipped.
    """
    values = array[brain]
    low, high = np.percentile(values, (tails_percent, 100 - tails_percent))
    trusted = values[(values >= low) & (values <= high)]
    return Normalised(_standardise(array, brain, trusted), 0.0)


def white_stripe_voxels(t1: Array, brain: Mask, *, half_width: float = 0.05) -> Mask:
    """Return normal-appearing white matter: voxels within ±5 % (of rank) of the T1 histogram's brightest peak.

    This is the white stripe of Shinohara et al. (NeuroImage: Clinical, 2014).
    """
    values = t1[brain]
    low, high = np.percentile(values, (0.5, 99.5))
    counts, edges = np.histogram(values, bins=128, range=(float(low), float(max(high, low + 1e-6))))
    kernel = np.exp(-0.5 * (np.arange(-12, 13) / 4.0) ** 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    peaks = [i for i in range(1, 127) if smooth[i - 1] < smooth[i] >= smooth[i + 1] and smooth[i] > 0.2 * smooth.max()]
    mode = edges[peaks[-1] if peaks else int(smooth.argmax())] + (edges[1] - edges[0]) / 2
    rank = float((values <= mode).mean())
    window = np.quantile(values, (max(rank - half_width, 0.0), min(rank + half_width, 1.0)))
    return np.asarray(brain & (t1 >= window[0]) & (t1 <= window[1]))


def white_stripe(array: Array, brain: Mask, *, stripe: Mask) -> Normalised:
    """Return intensities as standard deviations from the mean of normal-appearing white matter."""
    return Normalised(_standardise(array, brain, array[stripe]), 0.0)


def percentile_0_255(array: Array, brain: Mask, *, percentile: float = 99.9) -> Normalised:
    """Return intensities from 0 to 255, the darkest in the brain at 0, clipped at an upper percentile."""
    values = array[brain]
    bottom, top = float(values.min()), float(np.percentile(values, percentile))
    if top <= bottom:
        raise _no_contrast()
    scaled = np.clip((array - bottom) / (top - bottom), 0.0, 1.0) * 255.0
    return Normalised(np.where(brain, scaled, 0.0).astype(np.float32), float((values > top).mean()))


def _standardise(array: Array, brain: Mask, reference: npt.NDArray[np.float32]) -> Array:
    mean, deviation = float(reference.mean(dtype=np.float64)), float(reference.std(dtype=np.float64))
    if not deviation > 0:
        raise _no_contrast()
    return np.where(brain, (array - mean) / deviation, 0.0).astype(np.float32)


def _no_contrast() -> InvalidVolume:
    return InvalidVolume(
        "the brain has one intensity throughout",
        expected="intensities that vary within the brain",
        got="a standard deviation of zero",
        remedy="check that the right series was exported",
    )

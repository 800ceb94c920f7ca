"""Numbers that tell a good preparation from a bad one, and the names of what is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from services.preprocessing.contracts import SequenceQuality
from services.preprocessing.registration import normalised_mutual_information
from services.shared.cohort import Sequence

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

BRAIN_VOLUME_ML = (900.0, 2200.0)
ATLAS_DICE = 0.85
ATLAS_SCALE = (0.85, 1.18)
ANISOTROPY = 4.0
BIAS_FIELD_RANGE = 4.0
SIGNAL_TO_NOISE = 5.0
SHIFT_MM = 30.0
FRACTION_SEEN = 0.95


def signal_to_noise(array: Array, brain: Mask) -> float | None:
    """Return the brain's median intensity over the noise's standard deviation, or None where either is zero.

    The noise is 1.4826 times the median absolute second difference along the last axis, over √6: neighbouring
    voxels of anatomy mostly lie on a line, and the median leaves out edges.
    """
    inside = brain[:, :, 2:] & brain[:, :, 1:-1] & brain[:, :, :-2]
    difference = (array[:, :, 2:] - 2 * array[:, :, 1:-1] + array[:, :, :-2])[inside]
    if difference.size == 0:
        return None
    noise = 1.4826 * float(np.median(np.abs(difference))) / 6**0.5
    signal = float(np.median(array[brain]))
    return signal / noise if noise > 0 and signal > 0 else None


def agreement(a: Array, b: Array, region: Mask, *, bins: int = 32) -> tuple[float | None, float | None]:
    """Return normalised mutual information and correlation of two volumes in a region; None where one is constant."""
    x, y = (
        np.clip(v[region], *np.percentile(v[region], (0.5, 99.5))) if region.any() else v[:0].ravel() for v in (a, b)
    )
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, None
    joint, _, _ = np.histogram2d(x, y, bins=bins)
    return normalised_mutual_information(joint.astype(np.int64)), float(np.corrcoef(x, y)[0, 1])


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice coefficient of two masks; 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2.0 * int((a & b).sum()) / total if total else 1.0


def find_flags(
    *, brain_volume_ml: float, atlas_dice: float, atlas_scale: float, sequences: Mapping[Sequence, SequenceQuality]
) -> list[str]:
    """Return the names of what a person should look at, worst kinds first; an empty list is a clean case."""
    flags = []
    if not BRAIN_VOLUME_ML[0] <= brain_volume_ml <= BRAIN_VOLUME_ML[1]:
        flags.append("brain_volume_implausible")
    if atlas_dice < ATLAS_DICE:
        flags.append("atlas_overlap_low")
    if not ATLAS_SCALE[0] <= atlas_scale <= ATLAS_SCALE[1]:
        flags.append("atlas_scale_implausible")
    for name, q in sequences.items():
        checks = {
            "registration_worse": q.nmi_after is not None
            and q.nmi_before is not None
            and q.nmi_after < q.nmi_before - 0.01,
            "moved_far": q.shift_mm > SHIFT_MM,
            "brain_cut_off": q.fraction_seen < FRACTION_SEEN,
            "noisy": q.signal_to_noise is not None and q.signal_to_noise < SIGNAL_TO_NOISE,
            "bias_field_strong": q.bias_field_range > BIAS_FIELD_RANGE,
            "thick_slices": q.anisotropy > ANISOTROPY,
        }
        flags += [f"{name}:{flag}" for flag, raised in checks.items() if raised]
    return flags

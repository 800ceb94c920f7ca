"""How sure a network is: entropy, mutual information, and the Dice that its probabilities let expect.

The figures are as good as the network's probabilities: they are not calibrated. They rank cases and voxels; an
expected Dice of 0.9 is no promise of 0.9.
"""

from __future__ import annotations

from collections.abc import Sequence as ListOf

import numpy as np
import numpy.typing as npt

from services.segmentation.regions import Labels
from services.shared.cohort import REGION_LABELS, Label, Region, region_mask

Floats = npt.NDArray[np.float32]


def entropy(probabilities: Floats) -> Floats:
    """Return the Shannon entropy of each voxel's class probabilities, −Σ p ln p in nats; 0 is certain.

    Parameters
    ----------
    probabilities : (classes, …)
        Non-negative, with sum 1 over classes.

    >>> entropy(np.array([[0.5], [0.5]], dtype=np.float32))
    array([0.6931472], dtype=float32)
    """
    total: Floats = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for plane in probabilities:
        total -= plane * np.log(plane, where=plane > 0, out=np.zeros_like(plane))
    return total.clip(min=0)


def mutual_information(mean_probabilities: Floats, mean_entropy: Floats) -> Floats:
    """Return the mutual information between class and view: entropy of the mean less mean of the entropies, nats.

    It is what views (mirrored inputs) disagree about, beside what each of them is unsure of (BALD: Houlsby et al.,
    arXiv 1112.5745, equation 2, with mirrored inputs in place of models). It is never negative.
    """
    return (entropy(mean_probabilities) - mean_entropy).clip(min=0)


def expected_dice(
    probabilities: Floats, labels: Labels, inside: npt.NDArray[np.bool_], *, classes: ListOf[Label]
) -> dict[Region, float | None]:
    r"""Return the Dice coefficient that the probabilities let expect of each region; None where it is empty.

    With S the segmentation of a region and p its probability in each voxel of the brain, were the truth drawn voxel
    by voxel from p: :math:`E[\mathrm{Dice}] \approx 2\sum_{i \in S} p_i / (|S| + \sum_i p_i)`, the ratio of the
    expectations of numerator and denominator (the soft Dice of S and p).

    Parameters
    ----------
    probabilities : (classes, z, y, x)
    labels : (z, y, x)
        The final segmentation, 0, 1, 2, 4.
    inside : (z, y, x)
        The brain.
    classes
        Label of each class.
    """
    found: dict[Region, float | None] = {}
    for region in Region:
        chosen = region_mask(labels, region)
        size = int(np.count_nonzero(chosen))
        if not size:
            found[region] = None
            continue
        share = sum(
            plane for plane, label in zip(probabilities, classes, strict=True) if label in REGION_LABELS[region]
        )
        hit, mass = (float(np.sum(share, where=where, dtype=np.float64)) for where in (chosen, inside))
        found[region] = round(2 * hit / (size + mass), 4)
    return found

"""Read what was imported of a case, and check that it can be worked with."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from services.preprocessing.orientation import orient
from services.shared.cohort import CaseKeys, Sequence, normalise_labels
from services.shared.errors import InvalidMask, InvalidVolume
from services.shared.storage import Storage
from services.shared.volume import read_volume, require_same_grid


def read_sequence(storage: Storage, keys: CaseKeys, sequence: Sequence) -> sitk.Image:
    """Return an imported sequence, its axes along LPS.

    Raises
    ------
    UnreadableFile, InvalidVolume
        Where it cannot be worked with, or has one intensity throughout.
    """
    key = keys.raw_image(sequence)
    image = orient(read_volume(storage, key))
    values = sitk.GetArrayFromImage(image)
    if values.min() == values.max():
        raise InvalidVolume(
            "the volume has one intensity throughout",
            field=key,
            expected="an image of a head",
            got=f"{values.min():g} everywhere",
            remedy="export the series again",
        )
    return image - float(values.min()) if values.min() < 0 and (values == 0).mean() < 0.1 else image


def read_expert(storage: Storage, keys: CaseKeys) -> sitk.Image:
    """Return the expert's segmentation with labels 0, 1, 2, 4, its axes along LPS.

    Raises
    ------
    SpaceMismatch, InvalidMask
        Where it does not lie on the grid of T1c, is empty, or holds a label that nobody defined.
    """
    key = keys.raw_segmentation
    mask = read_volume(storage, key)
    require_same_grid(mask, read_volume(storage, keys.raw_image(Sequence.T1C)), name=key, reference_name="T1c")
    values = sitk.GetArrayFromImage(mask)
    whole = np.rint(values)
    if np.abs(values - whole).max() > 1e-3:
        raise InvalidMask(
            "the segmentation holds values that are not whole", field=key, expected="0, 1, 2, 4", got="fractions"
        )
    try:
        labels = normalise_labels(whole.astype(np.int64))
    except InvalidMask as error:
        error.field = error.field or key
        raise
    if not labels.any():
        raise InvalidMask(
            "the segmentation is empty",
            field=key,
            expected="at least one voxel of tumour",
            got="background only",
            remedy="remove the file to let the network segment the case, or draw the tumour",
        )
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(mask)
    return orient(image)

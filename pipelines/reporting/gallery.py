"""Slices of prepared volumes with the outlines of tumour and brain."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.reporting.picture import ORANGE, SKY, YELLOW, Picture, embed_png
from services.shared.cohort import CaseKeys, Region, Sequence, region_mask
from services.shared.storage import Storage
from services.shared.volume import read_volume

SHOWN: tuple[Sequence, ...] = (Sequence.T1C, Sequence.FLAIR)
OUTLINES = (
    (Region.WT, YELLOW, "whole tumour"),
    (Region.TC, ORANGE, "tumour core"),
    (Region.ET, SKY, "enhancing tumour"),
)
_PANEL_IN = 2.2
_DPI = 110

Array = npt.NDArray[np.float32]


def can_show(storage: Storage, keys: CaseKeys) -> bool:
    """Return whether everything that a slice needs is there."""
    needed = [keys.brain_mask, keys.segmentation, *(keys.preprocessed_image(sequence) for sequence in SHOWN)]
    return all(storage.exists(key) for key in needed)


def draw_case(storage: Storage, keys: CaseKeys, *, note: str) -> Picture:
    """Draw the axial slice with the largest tumour area: T1c and FLAIR, with outlines; patient's left is on the right.

    Parameters
    ----------
    keys
        Names the case.
    note
        Stands behind the case's name in the caption.
    """
    labels, spacing = _axial(storage, keys.segmentation)
    brain, _ = _axial(storage, keys.brain_mask)
    tumour = region_mask(np.rint(labels).astype(np.uint8), Region.WT)
    inside = tumour if tumour.any() else brain > 0
    index = int(np.argmax(inside.sum(axis=(1, 2))))
    figure = Figure(figsize=(_PANEL_IN * len(SHOWN), _PANEL_IN), dpi=_DPI, facecolor="black")
    rows, columns = _window(brain[index] > 0)
    for position, sequence in enumerate(SHOWN):
        volume, _ = _axial(storage, keys.preprocessed_image(sequence))
        axes = figure.add_axes((position / len(SHOWN), 0, 1 / len(SHOWN), 1))
        _draw_slice(axes, volume[index][rows, columns], brain[index][rows, columns] > 0, spacing)
        section = np.rint(labels[index][rows, columns]).astype(np.uint8)
        _outline(axes, brain[index][rows, columns] > 0, "white", width=0.6)
        for region, colour, _ in OUTLINES:
            _outline(axes, region_mask(section, region), colour, width=1.2)
        axes.text(0.03, 0.97, str(sequence), transform=axes.transAxes, color="white", fontsize=8, va="top")
    buffer = io.BytesIO()
    with mpl.rc_context({"font.family": "DejaVu Sans"}):
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    largest = float(tumour[index].sum() * spacing[0] * spacing[1] / 100.0)
    what = f"largest tumour area {largest:.1f} cm²" if tumour.any() else "no tumour found"
    width = round(_PANEL_IN * _DPI)
    return embed_png(
        buffer.getvalue(),
        alt=f"{keys.subject}, axial slices of {' and '.join(SHOWN)} with outlines of tumour and brain: {what}",
        caption=f"{keys.subject} · {note} · slice {index + 1} of {labels.shape[0]}, {what}",
        width=width * len(SHOWN),
        height=width,
    )


def _axial(storage: Storage, key: str) -> tuple[Array, tuple[float, float]]:
    """Return a volume as (slice, row to posterior, column to the patient's left), and mm a column and a row."""
    image = sitk.DICOMOrient(read_volume(storage, key), "LPS")
    return sitk.GetArrayFromImage(image), image.GetSpacing()[:2]


def _window(brain: npt.NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the square part of a slice that holds the brain with a margin of two pixels."""
    if not brain.any():
        return slice(None), slice(None)
    found = np.argwhere(brain)
    low, high = found.min(axis=0), found.max(axis=0)
    half = (int((high - low).max()) + 1) // 2 + 2
    centre = (low + high + 1) // 2
    first, second = (slice(max(int(c) - half, 0), int(c) + half) for c in centre)
    return first, second


def _draw_slice(axes: Axes, pixels: Array, brain: npt.NDArray[np.bool_], spacing: tuple[float, float]) -> None:
    values = pixels[brain] if brain.any() else pixels.ravel()
    low, high = (float(v) for v in np.percentile(values, [1.0, 99.5]))
    # Prepared volumes are 0 outside the brain, which is the brain's mean after z-scoring: show it black.
    axes.imshow(
        np.where(brain, pixels, low) if brain.any() else pixels,
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        aspect=spacing[1] / spacing[0],
        interpolation="bilinear",
    )
    axes.set_axis_off()


def _outline(axes: Axes, mask: npt.NDArray[np.bool_], colour: str, *, width: float) -> None:
    if mask.any() and not mask.all():
        axes.contour(mask.astype(np.float32), levels=[0.5], colors=[colour], linewidths=width)

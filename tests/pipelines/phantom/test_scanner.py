"""Scanners: grids, poses, and a diffusion series from which the planted tensors can be fitted."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.phantom.anatomy import HEAD_MAX_MM, HEAD_MIN_MM, draw_subject
from pipelines.phantom.clinic import Biology
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.scanner import (
    SCANNERS,
    acquire,
    acquire_diffusion,
    acquisition_grid,
    plan_acquisitions,
    tissue_signals,
)
from pipelines.phantom.tumour import draw_tumour_plan, place_tumour
from services.shared.cohort import SEQUENCES, Label, Sequence

VOXEL_MM = 4.0


@pytest.fixture(scope="module")
def head():
    return draw_subject(random_stream(4, 0, Stream.ANATOMY), spacing_mm=VOXEL_MM)


def tumour_of(head, *, risk):
    return place_tumour(4, 0, draw_tumour_plan(4, 0, Biology(4, "WT", risk)), head)


@pytest.mark.parametrize("code", sorted({c for s in SCANNERS for c in s.orientation.values()}))
def test_grid_has_its_orientation_and_covers_the_head(code):
    grid = acquisition_grid(code, (3.0, 3.0, 4.5), sitk.Euler3DTransform())
    assert sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.GetDirection()) == code
    far = grid.TransformIndexToPhysicalPoint([n - 1 for n in grid.GetSize()])
    corners = np.sort([grid.GetOrigin(), far], axis=0)
    margin = np.array([4.5] * 3)
    assert np.all(corners[0] <= np.array(HEAD_MIN_MM) + margin)
    assert np.all(corners[1] >= np.array(HEAD_MAX_MM) - margin)


def test_every_scanner_is_drawn_and_poses_are_small():
    drawn = [plan_acquisitions(4, i, voxel_mm=VOXEL_MM) for i in range(40)]
    assert {plan[Sequence.T1].scanner.name for plan in drawn} == {s.name for s in SCANNERS}
    for plan in drawn:
        moved = [np.subtract(plan[s].to_head.TransformPoint((0.0, 0.0, 0.0)), 0) for s in SEQUENCES]
        assert max(np.linalg.norm(m) for m in moved) < 8
        assert len({tuple(m) for m in moved}) == len(SEQUENCES)


def test_bias_noise_and_gain_leave_the_contrast(head):
    tumour = tumour_of(head, risk="low")
    signal = tissue_signals(4, 0, head, tumour)[Sequence.FLAIR]
    acquisition = plan_acquisitions(4, 0, voxel_mm=VOXEL_MM)[Sequence.FLAIR]
    stored = sitk.GetArrayFromImage(acquire(4, 0, Sequence.FLAIR, signal, acquisition)).astype(float)
    clean = sitk.GetArrayFromImage(sitk.Resample(signal, acquisition.grid, acquisition.to_head, sitk.sitkLinear))
    inside = clean > 30
    assert np.corrcoef(stored[inside], clean[inside])[0, 1] > 0.75
    ratio = (stored[inside] - acquisition.scanner.offset) / clean[inside]
    assert 1.05 < np.percentile(ratio, 95) / np.percentile(ratio, 5) < 2.5


def fit_tensors(series):
    """Log-linear fit; gradients back from FSL's mirrored x to LPS. Returns eigenvalues and eigenvectors by voxel."""
    values = sitk.GetArrayFromImage(series.image).astype(float).clip(1)
    b = np.array(series.b_values)
    g = (series.directions * np.array([[-1], [1], [1]]))[:, b > 0]
    design = np.stack([g[0] ** 2, g[1] ** 2, g[2] ** 2, 2 * g[0] * g[1], 2 * g[0] * g[2], 2 * g[1] * g[2]], axis=1)
    attenuation = -np.log(values[b > 0] / values[b == 0].mean(axis=0)) / 1.0
    d = np.linalg.lstsq(design, attenuation.reshape(len(g.T), -1), rcond=None)[0]
    tensors = np.moveaxis(d[[0, 3, 4, 3, 1, 5, 4, 5, 2]].reshape(3, 3, -1), -1, 0)
    return np.linalg.eigh(tensors), values[b == 0].mean(axis=0)


def fractional_anisotropy(eigenvalues):
    spread = eigenvalues - eigenvalues.mean(axis=-1, keepdims=True)
    return np.sqrt(1.5 * (spread**2).sum(axis=-1) / (eigenvalues**2).sum(axis=-1))


def test_fitted_tensors_are_the_planted_ones(head):
    fitted = {}
    for risk in ("low", "high"):
        tumour = tumour_of(head, risk=risk)
        series = acquire_diffusion(4, 0, head, tumour, voxel_mm=VOXEL_MM)
        (eigenvalues, vectors), b0 = fit_tensors(series)
        anisotropy = fractional_anisotropy(eigenvalues)
        grid = sitk.Extract(series.image, [*series.image.GetSize()[:3], 0], [0, 0, 0, 0])
        points = np.array([grid.TransformIndexToPhysicalPoint(i) for i in np.ndindex(grid.GetSize())])
        x = points[:, 0].reshape(grid.GetSize()).transpose(2, 1, 0).ravel()
        callosum = (np.abs(x) < 8) & (anisotropy > 0.3) & (b0.ravel() > 300)
        assert callosum.sum() > 10
        assert np.median(np.abs(vectors[callosum][:, 0, -1])) > 0.9
        # Smooth membership of the tumour core, carried to the series' grid by its geometry alone.
        core = np.zeros(head.fractions.shape[1:], np.float32)
        weights = tumour.weights(VOXEL_MM)
        core[tumour.box] = weights[Label.ENHANCING] + weights[Label.NECROTIC_CORE]
        deep = sitk.GetArrayFromImage(sitk.Resample(head.image(core), grid)).ravel() > 0.95
        assert deep.sum() > 10
        mean_diffusivity = eigenvalues[deep].mean(axis=-1)
        assert np.median(mean_diffusivity) == pytest.approx(tumour.plan.md_um2_ms, rel=0.1)
        fitted[risk] = float(np.median(anisotropy[deep]))
    assert fitted["low"] > fitted["high"] + 0.1

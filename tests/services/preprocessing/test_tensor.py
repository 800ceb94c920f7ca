"""The tensor agrees with MRtrix's, its maps with the maps', and a table of gradients that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from services.preprocessing.tensor import Gradients, fit_tensor, read_gradients, tensor_maps
from services.shared.errors import InvalidTable


def spread(count: int, seed: int = 0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(count, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def table(count: int = 20, *, b: float = 1000.0) -> Gradients:
    return Gradients(np.r_[0.0, 0.0, np.full(count, b)], np.vstack([np.zeros((2, 3)), spread(count)]))


def tensor_of(values: tuple[float, float, float], seed: int = 1) -> np.ndarray:
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return axes @ np.diag(values) @ axes.T


def signal_of(tensor: np.ndarray, gradients: Gradients, *, baseline: float = 500.0) -> np.ndarray:
    along = np.einsum("ni,ij,nj->n", gradients.directions, tensor, gradients.directions)
    return baseline * np.exp(-gradients.b_values / 1000.0 * along)


def six(tensor: np.ndarray) -> np.ndarray:
    return np.array([tensor[0, 0], tensor[1, 1], tensor[2, 2], tensor[0, 1], tensor[0, 2], tensor[1, 2]])


@pytest.mark.parametrize("values", [(1.7, 0.3, 0.3), (0.8, 0.8, 0.8), (2.0, 1.0, 0.2), (3.0, 3.0, 3.0)])
def test_a_tensor_without_noise_is_found_and_described(values):
    gradients = table()
    tensor = tensor_of(values)
    found = fit_tensor(signal_of(tensor, gradients)[None], gradients)
    assert found[0] == pytest.approx(six(tensor), abs=1e-9)
    maps = {name: float(value[0]) for name, value in tensor_maps(found).items()}
    ordered = sorted(values, reverse=True)
    mean = np.mean(values)
    spread_of = np.sqrt(1.5 * np.sum((np.array(values) - mean) ** 2) / np.sum(np.square(values)))
    wanted = {"FA": spread_of, "MD": mean, "AD": ordered[0], "RD": (ordered[1] + ordered[2]) / 2}
    assert maps == pytest.approx(wanted, abs=1e-7)


def test_maps_do_not_depend_on_the_frame_of_the_directions():
    """FSL mirrors the first axis, scanners turn all: the invariants stay."""
    gradients = table()
    signal = signal_of(tensor_of((1.6, 0.6, 0.3)), gradients)[None] * np.random.default_rng(0).uniform(0.9, 1.1, 22)
    turned = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    first = tensor_maps(fit_tensor(signal, gradients))
    for frame in (np.diag([-1.0, 1.0, 1.0]), turned):
        other = tensor_maps(fit_tensor(signal, Gradients(gradients.b_values, gradients.directions @ frame)))
        for name, value in first.items():
            assert other[name] == pytest.approx(value, abs=1e-9), name


def test_samples_without_signal_take_no_part_and_empty_voxels_are_zero():
    gradients = table()
    signal = np.stack([signal_of(tensor_of((1.7, 0.3, 0.3)), gradients)] * 2)
    signal[0, [4, 9]] = 0.0
    signal[1] = 0.0
    found = fit_tensor(signal, gradients)
    assert found[0] == pytest.approx(six(tensor_of((1.7, 0.3, 0.3))), abs=1e-9)
    assert not found[1].any()
    assert all(np.isfinite(value).all() and value[1] == 0 for value in tensor_maps(found).values())


def test_noise_makes_no_diffusivity_negative_and_no_anisotropy_larger_than_one():
    maps = tensor_maps(np.random.default_rng(0).normal(size=(500, 6)))
    assert all((value >= 0).all() for value in maps.values())
    assert maps["FA"].max() <= 1.0


def test_strong_weighting_is_left_out_where_the_rest_suffices():
    both = Gradients(np.r_[0.0, np.full(12, 1000.0), np.full(12, 3000.0)], np.vstack([np.zeros((1, 3)), spread(24)]))
    assert both.fitted().sum() == 13
    assert table(b=3000.0).fitted().all()
    few = Gradients(np.r_[0.0, np.full(4, 1000.0)], np.vstack([np.zeros((1, 3)), spread(4)]))
    with pytest.raises(InvalidTable, match="do not determine a tensor"):
        few.fitted()


def text(rows: np.ndarray) -> str:
    return "\n".join(" ".join(f"{value:g}" for value in row) for row in np.atleast_2d(rows)) + "\n"


def test_tables_of_fsl_are_read_either_way():
    gradients = table(8)
    for directions in (gradients.directions.T, gradients.directions):
        found = read_gradients(text(gradients.b_values), text(directions), volumes=10)
        assert found.directions == pytest.approx(gradients.directions, abs=1e-5)
    nothing = gradients.directions.copy()
    nothing[:2] = np.nan  # what some tools write for an unweighted volume
    assert not read_gradients(text(gradients.b_values), text(nothing.T), volumes=10).directions[:2].any()


@pytest.mark.parametrize(
    ("b", "g", "words"),
    [
        ("0 0 1000", None, "does not fit the series"),
        (None, "1 0 0\n0 1 0\n0 0 1", "does not fit the series"),
        ("0 0 a", None, "not one of numbers"),
        ("", None, "not one of numbers"),
        ("0 0 -5 1000 1000 1000 1000 1000 1000 1000", None, "negative"),
        (None, "short", "not a unit vector"),
        (None, "nan", "not a unit vector"),
    ],
)
def test_tables_that_do_not_fit_are_refused(b, g, words):
    gradients = table(8)
    directions = gradients.directions.T.copy()
    if g in ("short", "nan"):
        directions[:, 5] = 0.2 if g == "short" else np.nan
        g = text(directions)
    with pytest.raises(InvalidTable, match=words):
        read_gradients(text(gradients.b_values) if b is None else b, text(directions) if g is None else g, volumes=10)


@pytest.mark.real
def test_the_tensor_is_that_of_mrtrix(real_data: Path):
    folder = real_data / "dti_small"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")

    def values(name: str) -> np.ndarray:
        return np.moveaxis(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / name))), 0, -1).astype(np.float64)

    scheme = np.loadtxt(folder / "mrtrix_dw_scheme.csv", delimiter=",", skiprows=1)
    length = np.linalg.norm(scheme[:, :3], axis=1, keepdims=True)
    gradients = Gradients(scheme[:, 3], scheme[:, :3] / np.where(length > 0, length, 1))
    inside = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mrtrix_mask.nii.gz"))) > 0
    signal, wanted = values("mrtrix_dwi.nii.gz")[inside], values("mrtrix_tensor_ref.nii.gz")[inside]
    found = fit_tensor(signal, gradients) / 1000.0  # mm²/s
    error = np.linalg.norm(found - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    sound = (signal > 0).all(axis=1)  # MRtrix gives samples of 0 a floor, here they take no part
    assert sound.sum() > 130
    assert error[sound].max() < 1e-5
    maps = tensor_maps(values("metric_tensor.nii.gz").reshape(-1, 6))
    for name, reference in (("FA", "metric_fa_ref.nii.gz"), ("MD", "metric_adc_ref.nii.gz")):
        expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / reference))).ravel()
        assert maps[name] == pytest.approx(expected, rel=1e-5, abs=1e-8), name

"""Diffusion maps of a phantom patient, whose tensors and poses the phantom knows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.phantom.clinic import draw_biology
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.scanner import _rigid, plan_acquisitions
from pipelines.phantom.tumour import draw_tumour_plan
from services.preprocessing.contracts import DiffusionRequest
from services.preprocessing.diffusion import prepare_diffusion
from services.preprocessing.registration import compose, mask_points, mean_displacement_mm
from services.preprocessing.service import Preprocessing
from services.preprocessing.tensor import MAPS
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidTable, InvalidVolume, NotFound
from services.shared.storage import Storage
from services.shared.volume import read_series, read_volume, same_grid, write_volume
from tests.benchmarks.imaging_phantom import lay_cohort

SEED, VOXEL_MM = 3, 4.0


@pytest.fixture(scope="module")
def laid(tmp_path_factory) -> tuple[Storage, CaseRef]:
    """A phantom patient on the atlas grid by his true poses, with diffusion maps."""
    storage = Storage(tmp_path_factory.mktemp("diffusion"))
    (case,) = lay_cohort(storage, "phantom", cases=1, voxel_mm=VOXEL_MM, seed=SEED)
    return storage, case


@pytest.fixture
def changed(laid) -> Iterator[CaseKeys]:
    """The patient's keys; his series is put back after the test."""
    storage, case = laid
    keys = CaseKeys(case)
    kept = {key: storage.read_bytes(key) for key in (keys.raw_dwi(e) for e in ("nii.gz", "bval", "bvec"))}
    prepare_diffusion(storage, case)
    yield keys
    for key, content in kept.items():
        storage.write_bytes(key, content)


def test_planted_diffusion_is_found_in_the_core(laid):
    storage, case = laid
    keys = CaseKeys(case)
    plan = draw_tumour_plan(SEED, 0, draw_biology(SEED, 0))
    labels = sitk.GetArrayFromImage(read_volume(storage, keys.segmentation))
    core = (labels == 1) | (labels == 4)
    brain = read_volume(storage, keys.brain_mask)
    maps = {}
    for name in MAPS:
        image = read_volume(storage, keys.diffusion_map(name))
        assert same_grid(image, brain)
        maps[name] = sitk.GetArrayFromImage(image)
        assert not maps[name][sitk.GetArrayViewFromImage(brain) == 0].any()
    assert np.median(maps["FA"][core]) == pytest.approx(plan.fa, abs=0.1)
    assert np.median(maps["MD"][core]) == pytest.approx(plan.md_um2_ms, abs=0.15)
    ordered = (maps["AD"] >= maps["MD"] - 1e-5) & (maps["MD"] >= maps["RD"] - 1e-5)
    assert ordered[core].all()
    assert maps["MD"] == pytest.approx((maps["AD"] + 2 * maps["RD"]) / 3, abs=1e-4)


def test_the_series_is_laid_on_the_others(laid):
    storage, case = laid
    keys, result = CaseKeys(case), prepare_diffusion(*laid)
    pose = _rigid(random_stream(SEED, 0, Stream.DIFFUSION), degrees=2.5, mm=3.0)
    t2 = plan_acquisitions(SEED, 0, voxel_mm=VOXEL_MM)[Sequence.T2]
    atlas_to_t2 = sitk.ReadTransform(storage.url(keys.transform(Sequence.T2, keys.space)))
    true = compose(pose.GetInverse(), compose(t2.to_head, atlas_to_t2))
    points = mask_points(read_volume(storage, keys.brain_mask))
    found = sitk.ReadTransform(storage.url(result.transform))
    assert mean_displacement_mm(found, true, points) < 2.0  # a quarter of the series' voxel
    assert mean_displacement_mm(atlas_to_t2, true, points) > 2.0
    quality = result.quality
    assert (quality.volumes, quality.volumes_fitted, quality.largest_b_s_mm2) == (14, 14, 1000.0)
    assert quality.fraction_seen > 0.99
    assert 0.5 < quality.median_md_um2_ms < 1.2


def test_nothing_is_done_twice_and_the_service_says_the_same(laid, monkeypatch):
    storage, case = laid
    before = {name: storage.sha256(CaseKeys(case).diffusion_map(name)) for name in MAPS}
    monkeypatch.setattr("services.preprocessing.service.open_storage", lambda: storage)
    result = Preprocessing().prepare_diffusion(DiffusionRequest(case=case))
    assert result.cached
    assert {name: storage.sha256(key) for name, key in result.maps.items()} == before


def test_a_series_that_cannot_be_used_leaves_the_other_volumes(laid, changed):
    storage, case = laid
    storage.write_text(changed.raw_dwi("bval"), "0 0 1000\n")
    with pytest.raises(InvalidTable, match="does not fit the series") as caught:
        prepare_diffusion(storage, case)
    assert (caught.value.case, caught.value.step) == (str(case), "diffusion")
    assert not storage.exists(changed.diffusion_map("FA"))
    assert storage.exists(changed.preprocessed_image(Sequence.T2))
    storage.write_bytes(changed.raw_dwi("nii.gz"), storage.read_bytes(changed.raw_image(Sequence.T2)))
    with pytest.raises(InvalidVolume, match="not a series"):
        prepare_diffusion(storage, case)
    with pytest.raises(NotFound, match="no diffusion series"):
        prepare_diffusion(storage, CaseRef(cohort="phantom", id="nobody"))


def test_a_series_whose_header_is_a_metre_off_is_found_by_its_centre_of_mass(laid, changed):
    storage, case = laid
    before = read_volume(storage, changed.diffusion_map("FA"))
    away = []
    for volume in read_series(storage, changed.raw_dwi("nii.gz")):
        volume.SetOrigin([o + 1000.0 for o in volume.GetOrigin()])
        away.append(sitk.Cast(volume, sitk.sitkInt16))
    write_volume(storage, changed.raw_dwi("nii.gz"), sitk.JoinSeries(away))
    assert prepare_diffusion(storage, case).quality.shift_mm > 1000.0
    after = sitk.GetArrayFromImage(read_volume(storage, changed.diffusion_map("FA")))
    core = sitk.GetArrayFromImage(read_volume(storage, CaseKeys(case).segmentation)) == 1
    assert after[core].mean() == pytest.approx(sitk.GetArrayFromImage(before)[core].mean(), abs=0.05)

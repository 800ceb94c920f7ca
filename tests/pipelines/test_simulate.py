"""The phantom cohort: same seed, same bytes; one more case changes no other; images that a pipeline can work with."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from pipelines.simulate import (
    SimulateParameters,
    check_parameters,
    draw_patients,
    extend_cohort,
    phantom_key,
    simulate_cohort,
)
from services.shared.cohort import PARTICIPANT_COLUMNS, SEQUENCES, CaseKeys, Label, Sequence, read_cohort
from services.shared.errors import InvalidValue, NotFound
from services.shared.storage import Storage
from services.shared.volume import read_volume, same_grid

SEED = 5
SMALL = SimulateParameters(cases=2, segmentation_cases=1, voxel_mm=4.0, workers=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    storage = Storage(tmp_path_factory.mktemp("phantom"))
    seen = []
    cohort = simulate_cohort(
        storage, "phantom", parameters=SMALL, seed=SEED, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return storage, cohort


def hashes(storage: Storage, cohort: str = "phantom") -> dict[str, str]:
    return {key.removeprefix(f"raw/{cohort}/"): storage.sha256(key) for key in storage.files(f"raw/{cohort}")}


def images(found: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in found.items() if key.startswith("sub-")}


def test_grown_cohort_in_two_processes_has_the_bytes_of_the_whole(made, tmp_path):
    storage, _ = made
    other = Storage(tmp_path)
    fewer = SMALL.model_copy(update={"cases": 1, "workers": 2})
    simulate_cohort(other, "phantom", parameters=fewer, seed=SEED)
    first = images(hashes(other))
    assert len(first) == 2 * 8
    extend_cohort(other, "phantom", cases=1, workers=1)
    assert first.items() <= images(hashes(other)).items()
    assert hashes(other) == hashes(storage)


def test_another_seed_gives_other_images(made, tmp_path):
    storage, _ = made
    other = Storage(tmp_path)
    simulate_cohort(other, "phantom", parameters=SMALL.model_copy(update={"segmentation_cases": 0}), seed=SEED + 1)
    first = "sub-phantom0001/anat/sub-phantom0001_T1c.nii.gz"
    assert hashes(other)[first] != hashes(storage)[first]


def test_null_keeps_the_images_and_redraws_the_table(made, tmp_path):
    storage, cohort = made
    other = Storage(tmp_path)
    null = simulate_cohort(other, "phantom", parameters=SMALL, seed=SEED, null=True)
    assert images(hashes(other)) == images(hashes(storage))
    assert list(null.participants["participant_id"]) == list(cohort.participants["participant_id"])
    assert not null.participants["os_months"].equals(cohort.participants["os_months"])
    assert json.loads(other.read_text(phantom_key("phantom")))["null"] is True


def test_cohort_reads_back_with_every_column_described(made):
    storage, cohort = made
    assert list(cohort.participants.columns) == list(PARTICIPANT_COLUMNS)
    assert cohort.participants.equals(read_cohort(storage, "phantom").participants)
    assert list(cohort.participants["subset"]) == ["segmentation", "study", "study"]
    assert cohort.participants.notna().all().all()
    assert cohort.participants["participant_id"].iloc[0] == "sub-phantom0001"
    assert cohort.participants["source_id"].iloc[0] == "PHANTOM-0001"
    dictionary = json.loads(storage.read_text("raw/phantom/participants.json"))
    assert {name: entry["Description"] for name, entry in dictionary.items()} == PARTICIPANT_COLUMNS


def test_statement_tells_how_it_was_made_and_not_by_how_many_workers(made):
    storage, _ = made
    stated = json.loads(storage.read_text(phantom_key("phantom")))
    assert stated["seed"] == SEED
    assert stated["null"] is False
    assert stated["parameters"] == {"cases": 2, "segmentation_cases": 1, "voxel_mm": 4.0}
    assert stated["effects"]["rim_probability"]["4"] > stated["effects"]["rim_probability"]["2"]


def test_sequences_differ_in_grid_and_hold_int16(made):
    storage, cohort = made
    for case in cohort.cases:
        keys = CaseKeys(case)
        volumes = []
        for sequence in SEQUENCES:
            with storage.local(keys.raw_image(sequence)) as path:
                volumes.append(sitk.ReadImage(str(path)))
        assert {v.GetPixelID() for v in volumes} == {sitk.sitkInt16}
        t1c = volumes[SEQUENCES.index(Sequence.T1C)]
        assert not any(same_grid(v, t1c) for v in volumes if v is not t1c)
        for volume in volumes:
            spacing = np.array(volume.GetSpacing())
            assert np.all((spacing > 0.8 * 4) & (spacing < 1.6 * 4))
            axes = np.reshape(volume.GetDirection(), (3, 3))
            assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)


def test_expert_mask_lies_on_the_t1c_and_marks_the_tumour(made):
    storage, cohort = made
    for case in cohort.cases:
        keys = CaseKeys(case)
        t1c, flair = (read_volume(storage, keys.raw_image(s)) for s in (Sequence.T1C, Sequence.FLAIR))
        mask = read_volume(storage, keys.raw_segmentation, pixel_type=sitk.sitkUInt8)
        assert same_grid(mask, t1c)
        labels = sitk.GetArrayFromImage(mask)
        assert set(np.unique(labels)) <= {0, 1, 2, 4}
        assert (labels == Label.NECROTIC_CORE).any()
        assert (labels == Label.OEDEMA).any()
        whole_ml = (labels > 0).sum() * 4**3 / 1000
        assert 8 < whole_ml < 250
        # The poses differ by millimetres only, so FLAIR is bright under the mask even before registration.
        near = sitk.GetArrayFromImage(sitk.Resample(flair, t1c))
        head = near[near > np.percentile(near, 60)]
        assert near[labels == Label.OEDEMA].mean() > np.median(head)


def test_rim_takes_up_contrast(made):
    storage, cohort = made
    seen = 0
    for case in cohort.cases:
        keys = CaseKeys(case)
        labels = sitk.GetArrayFromImage(read_volume(storage, keys.raw_segmentation))
        t1c = sitk.GetArrayFromImage(read_volume(storage, keys.raw_image(Sequence.T1C)))
        if (labels == Label.ENHANCING).sum() > 20:
            seen += 1
            assert t1c[labels == Label.ENHANCING].mean() > 1.3 * t1c[labels == Label.NECROTIC_CORE].mean()
    assert seen


def test_head_is_more_than_brain(made):
    storage, cohort = made
    volume = read_volume(storage, CaseKeys(cohort.cases[0]).raw_image(Sequence.T1))
    foreground = sitk.GetArrayFromImage(sitk.OtsuThreshold(volume, 0, 1))
    litres = foreground.sum() * np.prod(volume.GetSpacing()) / 1e6
    assert 2.0 < litres < 5.0


def test_diffusion_series_is_whole(made):
    storage, cohort = made
    keys = CaseKeys(cohort.cases[0])
    with storage.local(keys.raw_dwi("nii.gz")) as path:
        series = sitk.ReadImage(str(path))
    b_values = [int(b) for b in storage.read_text(keys.raw_dwi("bval")).split()]
    directions = np.array([row.split() for row in storage.read_text(keys.raw_dwi("bvec")).splitlines()], float)
    assert series.GetSize()[3] == len(b_values) == directions.shape[1] == 14
    assert sorted(set(b_values)) == [0, 1000]
    lengths = np.linalg.norm(directions, axis=0)
    assert np.allclose(lengths, [float(b > 0) for b in b_values], atol=1e-5)
    values = sitk.GetArrayFromImage(series).astype(float)
    head = values[0] > 300
    assert values[2:, head].mean() < 0.75 * values[:2, head].mean()


def test_expression_tables_share_the_participants(made):
    storage, cohort = made
    for name in ("expression", "counts"):
        with storage.local(f"raw/phantom/{name}.parquet") as path:
            table = pd.read_parquet(path)
        assert table.index.name == "participant_id"
        assert list(table.index) == list(cohort.participants["participant_id"])
        assert table.shape == (3, 150)
        assert (table >= 0).all().all()
        assert name == "expression" or (table.dtypes == np.int64).all()


def test_nothing_temporary_stays(made):
    storage, _ = made
    with storage.local(phantom_key("phantom")) as path:
        assert not list(path.parent.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cases", 0),
        ("segmentation_cases", -1),
        ("voxel_mm", 0.0),
        ("voxel_mm", float("nan")),
        ("workers", 0),
        ("unknown", 1),
    ],
)
def test_bad_parameter_is_named(name, value):
    with pytest.raises(InvalidValue) as caught:
        check_parameters(**{name: value})
    assert caught.value.field == name


@pytest.mark.parametrize(("name", "seed", "field"), [("phantom", -1, "seed"), ("../up", 1, "name"), ("", 1, "name")])
def test_bad_name_or_seed_writes_nothing(tmp_path, name, seed, field):
    with pytest.raises(InvalidValue) as caught:
        simulate_cohort(Storage(tmp_path), name, parameters=SMALL, seed=seed)
    assert caught.value.field == field
    assert not list(tmp_path.iterdir())


def test_a_real_cohort_is_not_overwritten(tmp_path):
    storage = Storage(tmp_path)
    storage.write_text("raw/hospital/participants.tsv", "participant_id\n")
    with pytest.raises(InvalidValue, match="no phantom"):
        simulate_cohort(storage, "hospital", parameters=SMALL, seed=1)
    assert storage.exists("raw/hospital/participants.tsv")


def test_only_a_phantom_can_be_extended(made, tmp_path):
    with pytest.raises(NotFound):
        extend_cohort(Storage(tmp_path), "phantom")
    storage, _ = made
    with pytest.raises(InvalidValue):
        extend_cohort(storage, "phantom", cases=0)


def test_default_cohort_is_that_of_the_demo():
    patients = draw_patients(SimulateParameters(), seed=0)
    subsets = [p.row["subset"] for p in patients]
    assert (subsets.count("segmentation"), subsets.count("study")) == (12, 40)
    assert len({p.row["participant_id"] for p in patients}) == 52
    assert sorted(str(p.row["scan_date"]) for p in patients) == [p.row["scan_date"] for p in patients]

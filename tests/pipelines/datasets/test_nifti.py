import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from pipelines.datasets.nifti import import_nifti, sequence_of
from services.preprocessing.reading import read_expert
from services.shared.cohort import CaseKeys, Sequence, read_cohort
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound
from services.shared.storage import Storage
from services.shared.volume import read_volume

IMAGE = sitk.GetImageFromArray(np.arange(64, dtype=np.float32).reshape(4, 4, 4))


def release(folder: Path, case: str, *names: str) -> Path:
    (folder / case).mkdir(parents=True)
    for name in names:
        sitk.WriteImage(IMAGE, str(folder / case / name))
    return folder


@pytest.mark.parametrize(
    ("name", "sequence"),
    [
        ("BraTS2021_00495_t1.nii.gz", "T1w"),
        ("BraTS2021_00495_t1ce.nii.gz", "T1c"),
        ("BraTS-GLI-00000-000-t1n.nii.gz", "T1w"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", "T1c"),
        ("BraTS-GLI-00000-000-t2f.nii.gz", "FLAIR"),
        ("BraTS-GLI-00000-000-t2w.nii.gz", "T2w"),
        ("BraTS-GLI-00000-000-seg.nii.gz", "segmentation"),
        ("TCGA-02-0054_FLAIR.nii.gz", "FLAIR"),
        ("sub-01_ce-gadolinium_T1w.nii.gz", "T1c"),
        ("TCGA-DU-7294_t1c_bet.nii.gz", "T1c"),
        ("sub-01_T1w.nii", "T1w"),
        ("UCSF-PDGM-0004_T1gad.nii.gz", "T1c"),
        ("UCSF-PDGM-0004_tumor_segmentation.nii.gz", "segmentation"),
        ("UCSF-PDGM-0004_brain_segmentation.nii.gz", None),
        ("UCSF-PDGM-0004_brain_parenchyma_segmentation.nii.gz", None),
        ("UCSF-PDGM-0004_T1_bias.nii.gz", None),
        ("UCSF-PDGM-0004_DTI_eddy_L1.nii.gz", None),
        ("UPENN-GBM-00001_11_T1GD.nii.gz", "T1c"),
        ("UPENN-GBM-00001_11_segm.nii.gz", "segmentation"),
        ("PatientID_0003_Timepoint_1_tumorMask.nii.gz", "segmentation"),
        ("notes.nii.gz", None),
    ],
)
def test_names_of_releases_are_known(name: str, sequence: str | None) -> None:
    assert sequence_of(name) == sequence


def test_folder_of_cases_becomes_a_cohort(storage: Storage, tmp_path: Path) -> None:
    source = release(tmp_path / "r", "TCGA-02-0054", "a_T1.nii.gz", "a_T1c.nii", "a_T2.nii.gz", "a_FLAIR.nii.gz")
    release(tmp_path / "r", "TCGA-02-0055", "a_t1.nii.gz", "a_seg.nii.gz")
    (tmp_path / "clinic.csv").write_text("ID,age_years,grade\nTCGA-02-0055,50,4\nTCGA-02-0054,61,3\nTCGA-02-0056,1,2\n")
    imported, problems = import_nifti(storage, source, "tcga", participants=tmp_path / "clinic.csv")
    assert not problems
    assert [case.case.id for case in imported] == ["TCGA020054", "TCGA020055"]
    frame = read_cohort(storage, "tcga").participants.set_index("source_id")
    assert frame.loc["TCGA-02-0054", "grade"] == 3
    keys = CaseKeys(imported[0].case)
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(read_volume(storage, keys.raw_image(Sequence.T1C))), sitk.GetArrayFromImage(IMAGE)
    )
    assert storage.exists(CaseKeys(imported[1].case).raw_segmentation)
    assert gzip.decompress(storage.read_bytes(keys.raw_image(Sequence.T1C)))[:4] == (348).to_bytes(4, "little")


def test_cases_match_the_table_by_the_name_of_any_year(storage: Storage, tmp_path: Path) -> None:
    source = release(tmp_path / "r", "Brats17_TCIA_2_1", "x_t1.nii.gz")
    table = tmp_path / "participants.tsv"
    table.write_text("participant_id\tbrats_2017_id\tos_months\nsub-BraTS20001\tBrats17_TCIA_2_1\t16\nsub-B\tn/a\t2\n")
    table.with_suffix(".json").write_text('{"brats_2017_id": {"Description": "Name in 2017"}}')
    import_nifti(storage, source, "c", participants=table)
    frame = read_cohort(storage, "c").participants
    assert frame["participant_id"].tolist() == ["sub-Brats17TCIA21"]
    assert frame["os_months"].tolist() == [16]
    assert "Name in 2017" in storage.read_text("raw/c/participants.json")
    table.write_text("participant_id\tbrats_2017_id\nsub-a\tBrats17_TCIA_2_1\nsub-b\tBrats17-TCIA-2-1\n")
    with pytest.raises(DuplicateId, match="two rows"):
        import_nifti(storage, source, "d", participants=table)


def test_enhancing_tumour_of_brats_2023_is_label_4(storage: Storage, tmp_path: Path) -> None:
    source = release(tmp_path / "r", "BraTS-GLI-00001-000", "BraTS-GLI-00001-000-t1c.nii.gz")
    labels = np.arange(64, dtype=np.uint8).reshape(4, 4, 4) % 4
    mask = sitk.GetImageFromArray(labels)
    sitk.WriteImage(mask, str(source / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz"))
    imported, _ = import_nifti(storage, source, "c")
    assert imported[0].case.id == "BraTSGLI00001000"
    read = sitk.GetArrayFromImage(read_expert(storage, CaseKeys(imported[0].case)))
    assert sorted(np.unique(read)) == [0, 1, 2, 4]
    assert (read == 4).sum() == (labels == 3).sum()


def test_second_import_adds_and_refuses_what_is_there(storage: Storage, tmp_path: Path) -> None:
    import_nifti(storage, release(tmp_path / "one", "a-1", "x_t1.nii.gz"), "c")
    import_nifti(storage, release(tmp_path / "two", "a-2", "x_t1.nii.gz"), "c")
    assert [case.id for case in read_cohort(storage, "c").cases] == ["a1", "a2"]
    with pytest.raises(DuplicateId, match="a1"):
        import_nifti(storage, release(tmp_path / "three", "a_1", "x_t1.nii.gz"), "c")


def test_ambiguous_case_is_left_out_with_its_reason_and_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    source = release(tmp_path / "r", "good", "x_t1.nii.gz")
    release(tmp_path / "r", "bad", "x_t1.nii.gz", "y_T1w.nii.gz")
    imported, problems = import_nifti(storage, source, "c")
    assert [case.case.id for case in imported] == ["good"]
    assert problems[0].case == "c/sub-bad"
    assert "x_t1.nii.gz, y_T1w.nii.gz" in str(problems[0])
    assert storage.folders("raw/c") == ["sub-good"]


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("ID,grade\nother,4\n", IdMismatch, "a row for each of case1"),
        ("ID,grade\ncase1,4\ncase-1,3\n", DuplicateId, "sub-case1"),
        ("patient,grade\ncase1,4\n", InvalidTable, "participant_id or source_id"),
    ],
)
def test_clinical_table_that_does_not_fit_is_refused(
    storage: Storage, tmp_path: Path, table: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "clinic.csv").write_text(table)
    source = release(tmp_path / "r", "case1", "x_t1.nii.gz")
    with pytest.raises(error, match=message):
        import_nifti(storage, source, "c", participants=tmp_path / "clinic.csv")
    assert not storage.exists("raw/c")


def test_cases_in_folders_by_grade_and_what_an_archiver_leaves_behind(storage: Storage, tmp_path: Path) -> None:
    release(tmp_path / "r" / "HGG", "a", "a_t1.nii.gz")
    release(tmp_path / "r" / "LGG", "b", "b_t1.nii.gz")
    release(tmp_path / "r" / "__MACOSX", "a", "a_t1.nii.gz")
    (tmp_path / "r" / "HGG" / "a" / "._a_t1.nii.gz").write_bytes(b"x")
    imported, problems = import_nifti(storage, tmp_path / "r", "c")
    assert [case.case.id for case in imported] == ["a", "b"]
    assert not problems


def test_folders_that_are_no_whole_case_are_named(storage: Storage, tmp_path: Path) -> None:
    source = release(tmp_path / "r", "a", "a_t1.nii.gz")
    release(source, "b", "b_flair.nii.gz")
    release(source, "masks", "x_seg.nii.gz")
    release(source, "maps", "x_adc.nii.gz")
    release(source, "empty")
    release(source, "notes")
    (source / "notes" / "readme.txt").write_text("x")
    imported, problems = import_nifti(storage, source, "c")
    assert [case.case.id for case in imported] == ["a", "b"]
    assert [problem.field for problem in problems] == ["empty", "maps", "masks"]
    assert storage.folders("raw/c") == ["sub-a", "sub-b"]


@pytest.mark.parametrize("names", [("a_t1.nii.gz", "a_t1.nii"), ("a_t1.nii", "a_t1.nii.gz")])
def test_the_content_decides_whether_an_image_is_compressed(
    storage: Storage, tmp_path: Path, names: tuple[str, str]
) -> None:
    source = release(tmp_path / "r", "a", names[0])
    (source / "a" / names[0]).rename(source / "a" / names[1])
    imported, _ = import_nifti(storage, source, "c")
    read = read_volume(storage, CaseKeys(imported[0].case).raw_image(Sequence.T1))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(IMAGE))


def test_folder_without_images_is_refused(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="no image of a known name"):
        import_nifti(storage, tmp_path / "empty", "c")
    with pytest.raises(NotFound, match="no such folder"):
        import_nifti(storage, tmp_path / "nothing", "c")

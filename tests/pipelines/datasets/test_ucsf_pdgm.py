from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from pipelines.datasets.nifti import import_nifti
from pipelines.datasets.release import write_release
from pipelines.datasets.ucsf_pdgm import read_release
from services.shared.cohort import read_cohort
from services.shared.errors import DuplicateId, InvalidTable, NotFound
from services.shared.storage import Storage

HEADER = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis (WHO 2021),MGMT status,MGMT index,1p/19q,IDH,"
    "1-dead 0-alive,OS,EOR,Biopsy prior to imaging,BraTS21 ID,BraTS21 Segmentation Cohort,BraTS21 MGMT Cohort"
)
ROWS = """
UCSF-PDGM-004,M,66,4,"Glioblastoma, IDH-wildtype",negative,0,unknown,wildtype,1,487,STR,No,BraTS2021_00097,Training,
UCSF-PDGM-010,F,40,2,"Astrocytoma, IDH-mutant",positive,5,intact,IDH1 p.R132H,0,974,GTR,No,,,
UCSF-PDGM-011,F,42,3,"Oligodendroglioma, IDH-mutant",indeterminate,unknown,Co-deletion,mutated (NOS),0,,biopsy,Yes,,,
UCSF-PDGM-0429,M,50,4,"Glioblastoma",positive,3,relative co-deletion,IDH2 p.Arg172Trp,1,10,GTR,No,,,
UCSF-PDGM-0429_FU003d,M,50,4,"Glioblastoma, IDH-wildtype",positive,3,unknown,wildtype,1,7,GTR,No,,,
UCSF-PDGM-138,M,50,4,"Glioblastoma, IDH-wildtype",positive,3,unknown,wildtype,1,7,GTR,No,,,
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "UCSF-PDGM-metadata_v2.csv"
    path.write_text(HEADER + ROWS)
    return path


def test_metadata_becomes_one_row_a_patient(table):
    release = read_release(table)
    frame = release.participants.set_index("participant_id")
    assert frame.index.tolist() == [f"sub-UCSFPDGM{n}" for n in ("0004", "0010", "0011", "0429")]
    assert frame["idh"].tolist() == ["WT", "Mutant", "Mutant", "Mutant"]
    assert frame["mgmt"].tolist() == ["Unmethylated", "Methylated", None, "Methylated"]
    assert frame["codeletion_1p19q"].tolist() == [None, "non-codel", "codel", None]
    assert frame["grade"].tolist() == [4, 2, 3, 4]
    assert frame["event"].tolist() == [1, 0, pd.NA, 1]
    np.testing.assert_allclose(frame["os_months"], [16, 32, np.nan, 10 / 30.4375])
    assert release.dropped == dict.fromkeys(("UCSF-PDGM-0429_FU003d", "UCSF-PDGM-138"), "later scan of a patient")
    assert read_release(table.parent).participants.equals(release.participants)


def test_images_join_the_table_by_folder_and_by_the_name_of_brats_2021(table, storage: Storage, tmp_path):
    write_release(storage, "tables", read_release(table))
    participants = Path(storage.url("raw/tables/participants.tsv"))
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.float32))
    for place, names in {
        "ucsf/UCSF-PDGM-0004_nifti": ("T1", "T1gad", "T1_bias", "FLAIR", "FLAIR_bias", "DTI_eddy_FA", "ADC", "SWI",
                                      "brain_segmentation", "brain_parenchyma_segmentation", "tumor_segmentation"),
        "ucsf/UCSF-PDGM-0429_FU003d_nifti": ("T1",),
        "brats/BraTS2021_00097": ("t1", "t1ce"),
    }.items():  # fmt: skip
        folder = tmp_path / place
        folder.mkdir(parents=True)
        for name in names:
            sitk.WriteImage(image, str(folder / f"{folder.name.removesuffix('_nifti')}_{name}.nii.gz"))
    imported, problems = import_nifti(storage, tmp_path / "ucsf", "ucsf", participants=participants)
    assert [case.case.id for case in imported] == ["UCSFPDGM0004"]
    assert imported[0].found == ("FLAIR", "T1c", "T1w", "segmentation")
    assert "FU003d" in str(problems[0])
    imported, _ = import_nifti(storage, tmp_path / "brats", "brats", participants=participants)
    frame = read_cohort(storage, "brats").participants
    assert frame["participant_id"].tolist() == ["sub-BraTS202100097"]
    assert frame["resection"].tolist() == ["STR"]
    assert "gross total" in storage.read_text("raw/brats/participants.json")


def test_a_header_in_capitals_is_read_and_an_absent_column_is_counted(table):
    before = read_release(table)
    text = table.read_text()
    table.write_text(text.replace(HEADER, HEADER.upper()))
    assert read_release(table).participants.equals(before.participants)
    table.write_text(text.replace("EOR", "Extent"))
    assert read_release(table).counted == {**before.counted, "columns not there: EOR": 1}


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("wildtype,1", "perhaps,1", InvalidTable, "IDH"),
        ("wildtype,1", "wildtype,2", InvalidTable, "1-dead 0-alive"),
        ("UCSF-PDGM-010", "UCSF-PDGM-0004", DuplicateId, "UCSF-PDGM-0004"),
        ("UCSF-PDGM-010", "patient ten", InvalidTable, "patient ten"),
        ("WHO CNS Grade", "Grade", InvalidTable, "WHO CNS Grade"),
    ],
)
def test_bad_tables_are_refused(table, old, new, error, message):
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        read_release(table)


def test_a_folder_without_metadata_is_refused(tmp_path):
    with pytest.raises(NotFound, match="metadata"):
        read_release(tmp_path)

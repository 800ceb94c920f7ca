import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from pipelines.datasets.lgg_segmentation import import_lgg_segmentation, read_clinical_tables, read_slices, slices_key
from pipelines.datasets.slice_stacks import find_scans, read_stack
from services.shared.cohort import CaseKeys, Region, Sequence, read_cohort, region_mask
from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound
from services.shared.storage import Storage

TABLE = (
    "Patient,RNASeqCluster,histological_type,neoplasm_histologic_grade,gender,age_at_initial_pathologic,death01\n"
    "TCGA_CS_4941,2,1,2,2,67,1\n"
    "TCGA_DU_0001,,3,1,1,,\n"
    "TCGA_HT_9999,1,2,2,1,30,0\n"
)


def write_scan(folder: Path, name: str, numbers: tuple[int, ...], spoil: Callable[[np.ndarray], None] | None = None):
    (folder / name).mkdir(parents=True)
    for number in numbers:
        values = np.random.default_rng(number).integers(0, 256, (8, 6, 3), dtype=np.uint8)
        if spoil:
            spoil(values)
        mask = np.zeros((8, 6), np.uint8)
        mask[2:4, 1:number] = 255
        Image.fromarray(values).save(folder / name / f"{name}_{number}.tif")
        Image.fromarray(mask).save(folder / name / f"{name}_{number}_mask.tif")


def without_t1c(values: np.ndarray) -> None:
    values[..., 2] = values[..., 1]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "kaggle_3m"
    write_scan(folder, "TCGA_CS_4941_19960909", (1, 3, 5))
    write_scan(folder, "TCGA_DU_0001_19970222", (2, 3), without_t1c)
    (folder / "data.csv").write_text(TABLE)
    return folder


def test_clinical_columns_in_capitals_absent_ones_and_blank_rows(storage: Storage, release: Path) -> None:
    before = read_clinical_tables([release / "data.csv"])
    header, _, rows = TABLE.partition("\n")
    (release / "data.csv").write_text(f"{header.upper()}\n{rows},,,,,,\n")
    assert read_clinical_tables([release / "data.csv"]).equals(before)
    import_lgg_segmentation(storage, release, "lgg")
    counted = json.loads(storage.read_text("raw/lgg/import.json"))["counted"]
    assert counted["blank rows of data.csv"] == 1
    assert counted["columns not there: laterality"] == 1
    assert "columns not there: sex" not in counted
    (release / "data.csv").write_text(TABLE.replace("death01", "gender"))
    with pytest.raises(InvalidTable, match=r"twice.*data\.csv.*gender"):
        read_clinical_tables([release / "data.csv"])


def test_slices_become_a_cohort_of_volumes(storage: Storage, release: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    imported, problems = import_lgg_segmentation(storage, release, "lgg", progress=lambda *now: seen.append(now))
    assert not problems
    assert [case.found for case in imported] == [
        ("FLAIR", "T1c", "T1w", "segmentation"),
        ("FLAIR", "T1w", "segmentation"),
    ]
    assert seen == [(1, 2, "TCGACS4941"), (2, 2, "TCGADU0001")]
    keys = CaseKeys(imported[0].case)
    with storage.local(keys.raw_image(Sequence.FLAIR)) as path:
        flair = sitk.ReadImage(str(path))
    assert flair.GetSize() == (6, 8, 3)
    expected = np.random.default_rng(3).integers(0, 256, (8, 6, 3), dtype=np.uint8)[..., 1]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(flair)[1], expected)
    with storage.local(keys.raw_segmentation) as path:
        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert region_mask(labels, Region.WT).sum() == region_mask(labels, Region.ED).sum() == 2 * (0 + 2 + 4)
    assert not region_mask(labels, Region.TC).any()


def test_clinical_codes_and_counts_of_the_cohort(storage: Storage, release: Path) -> None:
    import_lgg_segmentation(storage, release, "lgg")
    frame = read_cohort(storage, "lgg").participants.set_index("source_id")
    first, second = frame.loc["TCGA_CS_4941"], frame.loc["TCGA_DU_0001"]
    assert (first["sex"], first["grade"], first["histology"], first["age_years"]) == ("M", 3, "astrocytoma", 67)
    assert (second["sex"], second["grade"], second["histology"]) == ("F", 2, "oligodendroglioma")
    assert first["scan_date"] == "1996-09-09"
    assert frame["slices"].tolist() == [3, 2]
    assert frame["tumour_slices"].tolist() == [2, 2]
    assert frame["t1c_copies_flair"].tolist() == [0, 1]
    assert frame["spacing_known"].tolist() == [0, 0]
    said = json.loads(storage.read_text("raw/lgg/import.json"))
    assert said["counted"]["patients without T1c"] == 1
    assert said["counted"]["clinical rows without images"] == 1
    assert "TCGA_CS_4941_19960909" in said["sources"]
    assert "1" in json.loads(storage.read_text("raw/lgg/participants.json"))["spacing_known"]["Description"]


def test_the_published_slices_come_back(storage: Storage, release: Path) -> None:
    imported, _ = import_lgg_segmentation(storage, release, "lgg")
    for case, scan in zip(imported, find_scans(release), strict=True):
        published, back = read_stack(scan), read_slices(storage, case.case)
        assert back.numbers == published.numbers
        np.testing.assert_array_equal(back.channels, published.channels)
        np.testing.assert_array_equal(back.mask, published.mask)
    assert json.loads(storage.read_text(slices_key(imported[0].case)))["SliceNumbers"] == [1, 3, 5]
    with pytest.raises(NotFound, match="no slices"):
        read_slices(storage, CaseRef(cohort="lgg", id="other"))


def test_the_same_release_gives_the_same_bytes(storage: Storage, release: Path) -> None:
    for cohort in ("one", "two"):
        import_lgg_segmentation(storage, release, cohort)
    names = [key.removeprefix("raw/one/") for key in storage.files("raw/one")]
    assert len(names) == 12
    assert all(storage.read_bytes(f"raw/one/{n}") == storage.read_bytes(f"raw/two/{n}") for n in names)


def test_bad_scan_is_left_out_with_its_reason_and_leaves_nothing(storage: Storage, release: Path) -> None:
    mask = release / "TCGA_DU_0001_19970222" / "TCGA_DU_0001_19970222_2_mask.tif"
    Image.fromarray(np.zeros((9, 6), np.uint8)).save(mask)
    imported, problems = import_lgg_segmentation(storage, release, "lgg")
    assert [case.case.id for case in imported] == ["TCGACS4941"]
    assert problems[0].case == "lgg/sub-TCGADU0001"
    assert "differ in size" in str(problems[0])
    assert storage.folders("raw/lgg") == ["sub-TCGACS4941"]
    assert "TCGA_DU_0001" in json.loads(storage.read_text("raw/lgg/import.json"))["dropped"]


def test_clinic_of_tcga_adds_what_the_release_lacks(storage: Storage, release: Path, tmp_path: Path) -> None:
    (tmp_path / "clinic.csv").write_text("case_id,grade,idh,os_months,event\nTCGA-CS-4941,2,WT,7.7,1\n")
    import_lgg_segmentation(storage, release, "lgg", participants=tmp_path / "clinic.csv")
    first = read_cohort(storage, "lgg").participants.set_index("source_id").loc["TCGA_CS_4941"]
    assert (first["grade"], first["idh"], first["os_months"], first["event"]) == (3, "WT", 7.7, 1)


def test_tables_of_parts_of_the_release_are_one(storage: Storage, release: Path) -> None:
    header, first, *others = TABLE.splitlines()
    (release / "data.csv").write_text(f"{header}\n{first}\n")
    (release / "data_other.csv").write_text(
        "\n".join((header.replace(",", ";"), *(o.replace(",", ";") for o in others)))
    )
    import_lgg_segmentation(storage, release, "lgg")
    assert read_cohort(storage, "lgg").participants["sex"].tolist() == ["M", "F"]
    (release / "data_other.csv").write_text(f"{header}\n{first}\n")
    with pytest.raises(DuplicateId, match="TCGACS4941"):
        import_lgg_segmentation(storage, release, "again")


def test_a_release_without_a_table_and_a_table_beside_it(storage: Storage, release: Path) -> None:
    (release / "data.csv").rename(release.parent / "data_open.csv")
    import_lgg_segmentation(storage, release, "beside")
    assert "sex" in read_cohort(storage, "beside").participants
    (release.parent / "data_open.csv").rename(release / "data.csv")
    import_lgg_segmentation(storage, release.parent, "inside")
    assert "sex" in read_cohort(storage, "inside").participants
    (release / "data.csv").unlink()
    import_lgg_segmentation(storage, release, "alone")
    assert "sex" not in read_cohort(storage, "alone").participants


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("2,1,2,2,67", "2,1,2,3,67", InvalidTable, "gender"),
        ("2,1,2,2,67", "2,1,4,2,67", InvalidTable, "neoplasm_histologic_grade"),
        ("TCGA_HT_9999", "TCGA_CS_4941", DuplicateId, "TCGA_CS_4941"),
        ("TCGA_", "OTHER_", IdMismatch, "none of the scans"),
    ],
)
def test_bad_clinical_table_leaves_nothing(
    storage: Storage, release: Path, old: str, new: str, error: type[Exception], message: str
) -> None:
    (release / "data.csv").write_text(TABLE.replace(old, new))
    with pytest.raises(error, match=message):
        import_lgg_segmentation(storage, release, "lgg")
    assert not storage.exists("raw/lgg")


def test_a_cohort_that_exists_is_refused(storage: Storage, release: Path) -> None:
    import_lgg_segmentation(storage, release, "lgg")
    with pytest.raises(DuplicateId, match="exists already"):
        import_lgg_segmentation(storage, release, "lgg")


@pytest.mark.real
def test_published_slices(storage: Storage, real_data: Path) -> None:
    folder = real_data / "kaggle_lgg_mri"
    scans = find_scans(folder) if folder.is_dir() else []
    if not scans or not (folder / "slices_index_open.csv").is_file():
        pytest.skip("no slices in kaggle_lgg_mri")
    index = pd.read_csv(folder / "slices_index_open.csv").set_index("case")
    assert len(scans) == len(index) == 83
    for scan in scans[::6]:
        stack, row = read_stack(scan), index.loc[scan.place.stem]
        tumour = int(stack.mask.any(axis=(1, 2)).sum())
        assert stack.copies_flair(0) == row["pre_is_flair_copy"]
        assert stack.copies_flair(2) == row["post_is_flair_copy"]
        assert tumour == row["n_tumour_slices"] or row["n_tumour_slices"] >= 20


@pytest.mark.real
def test_codes_agree_with_table_s1(real_data: Path) -> None:
    table = real_data / "kaggle_lgg_mri" / "data_open.csv"
    published = real_data / "tcga_glioma_clinical" / "ceccarelli2016_table_s1_lgg_gbm.csv.gz"
    if not table.is_file() or not published.is_file():
        pytest.skip("no clinical tables")
    ours = read_clinical_tables([table])
    theirs = pd.read_csv(published, dtype=str)
    theirs.index = "sub-" + theirs["patient"].str.replace("-", "")
    both = ours.join(theirs, how="inner")
    assert len(both) == 83
    assert (both["sex"] == both["Gender"].str[0].str.upper()).all()
    assert ("G" + both["grade"] == both["Grade"]).all()
    assert (both["histology"] == both["Histology"]).all()


def test_archives_are_read_without_unpacking(storage: Storage, release: Path) -> None:
    scan = release / "TCGA_CS_4941_19960909"
    with zipfile.ZipFile(release / f"{scan.name}.zip", "w") as archive:
        for path in sorted(scan.iterdir()):
            archive.write(path, f"../../{scan.name}/{path.name}")
            path.unlink()
    scan.rmdir()
    imported, problems = import_lgg_segmentation(storage, release, "lgg")
    assert len(imported) == 2
    assert not problems
    assert sorted(path.name for path in release.iterdir()) == [
        "TCGA_CS_4941_19960909.zip",
        "TCGA_DU_0001_19970222",
        "data.csv",
    ]

from pathlib import Path

import pytest

from pipelines.datasets.radiohead import read_release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pc_scores.csv").write_text('"","T1_ED.1","T2_ET.1"\n"TCGA-CS-2",1.5,2\n"TCGA-CS-1",3,NA\n')
    (tmp_path / "c_pathway_scores.csv").write_text(
        '"","ION_TRANSPORT"\n"TCGA-CS-2",0.5\n"TCGA-CS-1",1\n"TCGA-CS-3",2\n'
    )
    return tmp_path


def test_components_are_features_and_pathways_clinical_columns(folder):
    release = read_release(folder)
    assert release.participants["source_id"].tolist() == ["TCGA-CS-1", "TCGA-CS-2"]
    assert release.participants["pathway_ion_transport"].tolist() == [1, 0.5]
    assert set(release.participants["grade_group"]) == {"LGG"}
    assert release.matrices["features"].loc["TCGACS2"].tolist() == [1.5, 2]
    assert release.matrices["features"].isna().to_numpy().sum() == 1
    assert release.dropped == {"TCGA-CS-3": "no imaging"}


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        ("TCGA-CS-1", "TCGA-CS-2", DuplicateId, "TCGA-CS-2"),
        ("1.5", "high", InvalidTable, "high"),
        ("TCGA", "OTHER", IdMismatch, "share no patient"),
    ],
)
def test_bad_tables_are_refused(folder, old, new, error, message):
    path = folder / "pc_scores.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(error, match=message):
        read_release(folder)


def test_a_missing_table_is_named(folder):
    (folder / "c_pathway_scores.csv").unlink()
    with pytest.raises(NotFound, match="c_pathway_scores"):
        read_release(folder)


@pytest.mark.real
def test_published_release_with_tcga(real_data):
    folder, clinical = real_data / "radiohead_tcga_lgg", real_data / "tcga_glioma_clinical"
    if not folder.is_dir() or not clinical.is_dir():
        pytest.skip("no folder radiohead_tcga_lgg or tcga_glioma_clinical")
    release = read_release(folder, participants=clinical)
    assert release.matrices["features"].shape == (61, 143)
    assert not release.dropped
    assert release.participants["os_months"].notna().sum() >= 55

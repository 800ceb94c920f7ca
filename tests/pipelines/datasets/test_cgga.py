from __future__ import annotations

import zipfile

import numpy as np
import pytest

from pipelines.datasets.cgga import read_release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound

HEADER = (
    "CGGA_ID\tPRS_type\tHistology\tGrade\tGender\tAge\tOS\tCensor (alive=0; dead=1)\t"
    "Radio_status (treated=1;un-treated=0)\tChemo_status (TMZ treated=1;un-treated=0)\tIDH_mutation_status\t"
    "1p19q_codeletion_status\tMGMTp_methylation_status"
)
ROWS = (
    "CGGA_1\tPrimary\tAA\tWHO III\tFemale \t43\t60.875\t1\t1\t1\tWildtype\tNon-codel\tmethylated",
    "CGGA_2\tRecurrent\trGBM\tWHO IV\tMale  \t47\t3817\t0\t0\tNA\tMutant\tCodel\tun-methylated",
    "CGGA_3\tPrimary\tO\tWHO II\tMale\tNA\tNA\tNA\tNA\tNA\tNA\tNA\tNA",
)
RSEM = "Gene_Name\tCGGA_2\tCGGA_1\tCGGA_9\nGPX4\t127\t63\t1\nCD44\t1.5\t0\t1\nCD44\t0.5\t2\t1\n"
COUNTS = "gene_name\tCGGA_1\tCGGA_2\nGPX4\t100\t200\nCD44\t0\t7\n"


def clinical(folder, batch="693", end="\r", rows=ROWS, old="", new=""):
    path = folder / f"CGGA.mRNAseq_{batch}_clinical.20200506.txt"
    path.write_bytes((end.join((HEADER, *rows)) + end + "\t" * 12 + end).replace(old or "\0", new).encode())
    return path


def expression(folder, batch="693", text=RSEM):
    (folder / f"CGGA.mRNAseq_{batch}.RSEM-genes.20200506.txt").write_text(text)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_the_clinical_table_alone_is_a_cohort(tmp_path, end):
    path = clinical(tmp_path, end=end)
    found = read_release(path)
    table = found.participants.set_index("source_id")
    assert table.loc["CGGA_1"].drop("participant_id").to_dict() == {
        "age_years": 43.0, "sex": "F", "grade": 3, "histology": "AA", "idh": "WT", "codeletion_1p19q": "non-codel",
        "mgmt": "Methylated", "os_months": 2.0, "event": 1, "prs_type": "Primary", "radiotherapy": 1, "chemotherapy": 1,
        "batch": "693",
    }  # fmt: skip
    assert table["sex"].tolist() == ["F", "M", "M"]
    assert table["mgmt"].tolist() == ["Methylated", "Unmethylated", None]
    assert table["participant_id"].tolist() == ["sub-CGGA1", "sub-CGGA2", "sub-CGGA3"]
    assert found.matrices == {}
    assert found.dropped == {}
    assert found.counted == {"patients without follow-up": 1}
    assert list(found.sources) == [path.name]


def test_matrices_beside_it_are_taken_on_their_scales(tmp_path):
    path = clinical(tmp_path)
    expression(tmp_path)
    with zipfile.ZipFile(tmp_path / "CGGA.mRNAseq_693.Read_Counts-genes.20220620.txt.zip", "w") as archive:
        archive.writestr("c.txt", COUNTS)
    for source in (tmp_path, path):
        found = read_release(source)
        assert found.participants["source_id"].tolist() == ["CGGA_1", "CGGA_2"]
        np.testing.assert_allclose(found.matrices["expression"]["GPX4"], [6, 7])
        np.testing.assert_allclose(found.matrices["expression"]["CD44"], [1, 1])
        assert found.matrices["counts"].to_dict("list") == {"CD44": [0, 7], "GPX4": [100, 200]}
        assert found.scale == {"expression": "log2(FPKM + 1)", "counts": "read counts"}
        assert found.dropped == {"CGGA_3": "no expression", "CGGA_9": "no clinical row"}
        assert found.counted == {
            "gene columns merged with another of the same symbol (expression)": 1,
            "genes that do not vary (expression)": 1,
        }


def test_identifiers_of_two_batches_are_not_the_same_patients(tmp_path):
    clinical(tmp_path)
    clinical(tmp_path, batch="325")
    expression(tmp_path)
    found = read_release(tmp_path)
    assert found.participants["participant_id"].tolist() == [f"sub-{b}CGGA{i}" for b in (325, 693) for i in (1, 2, 3)]
    assert found.matrices == {}
    assert found.counted["batches whose expression is not taken, since the other has none"] == 1
    expression(tmp_path, "325", RSEM.replace("GPX4", "ACSL4").replace("1.5", "30.5"))
    found = read_release(tmp_path)
    assert found.matrices["expression"].index.tolist() == ["325CGGA1", "325CGGA2", "693CGGA1", "693CGGA2"]
    assert found.matrices["expression"].columns.tolist() == ["CD44"]
    assert found.counted["genes of expression that one batch lacks"] == 1
    assert found.participants["batch"].tolist() == ["325", "325", "693", "693"]
    expression(tmp_path, "325", RSEM.replace("GPX4", "ACSL4").replace("CD44", "TP53"))
    with pytest.raises(IdMismatch, match="hardly overlap"):
        read_release(tmp_path)
    one = read_release(tmp_path / "CGGA.mRNAseq_325_clinical.20200506.txt")
    assert one.participants["source_id"].tolist() == ["CGGA_1", "CGGA_2"]


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("WHO III", "WHO V", InvalidTable, "case CGGA_1.*Grade.*WHO V"),
        ("\t3817\t0", "\t3817\t2", InvalidTable, "case CGGA_2.*Censor.*2"),
        ("Wildtype", "half", InvalidTable, "case CGGA_1.*IDH_mutation_status"),
        ("CGGA_2", "CGGA_1", DuplicateId, "case CGGA_1"),
        ("Censor (alive=0; dead=1)", "Status", InvalidTable, "censor"),
        ("\t43\t", "\t430\t", InvalidTable, "age_years.*430"),
        ("60.875", "-5", None, ""),
    ],
)
def test_clinical_tables_that_are_malformed(tmp_path, old, new, error, words):
    path = clinical(tmp_path, old=old, new=new)
    if error is None:
        assert read_release(path).counted["patients without follow-up, negative"] == 1
        return
    with pytest.raises(error, match=words):
        read_release(path)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        (RSEM.replace("127", "-127"), InvalidTable, "Negative"),
        (RSEM.replace("127", "7.25").replace("63", "6"), InvalidTable, "already logged"),
        (RSEM.replace("GPX4", "2879").replace("CD44", "960"), InvalidTable, "entrez"),
        (RSEM.replace("CGGA_", "P"), IdMismatch, "share no patient"),
        (RSEM.replace("CGGA_2\t", "CGGA_1\t", 1), DuplicateId, "case CGGA_1"),
        (RSEM.replace("Gene_Name", "Sample"), InvalidTable, "Gene_Name"),
    ],
)
def test_expression_that_does_not_fit(tmp_path, text, error, words):
    clinical(tmp_path)
    expression(tmp_path, text=text)
    with pytest.raises(error, match=words):
        read_release(tmp_path)


def test_counts_with_fractions(tmp_path):
    clinical(tmp_path)
    (tmp_path / "CGGA.mRNAseq_693.Read_Counts-genes.txt").write_text(COUNTS.replace("200", "200.5"))
    with pytest.raises(InvalidTable, match="whole"):
        read_release(tmp_path)


def test_folders_that_are_not_cgga(tmp_path):
    with pytest.raises(NotFound, match="clinical"):
        read_release(tmp_path)
    with pytest.raises(NotFound):
        read_release(tmp_path / "absent")
    first = clinical(tmp_path)
    second = tmp_path / "CGGA.mRNAseq_693_clinical.20220620.txt"
    second.write_bytes(first.read_bytes())
    with pytest.raises(InvalidTable, match="two files"):
        read_release(tmp_path)
    assert len(read_release(second).participants) == 3


@pytest.mark.real
def test_published_clinical_table(real_data):
    found = read_release(real_data / "cgga_clinical_693")
    table = found.participants
    assert len(table) == 693
    assert not found.dropped
    assert found.counted == {
        "patients without follow-up": 36,
        "patients without follow-up, months or vital status alone": 6,
    }
    assert table["event"].sum() == 394
    assert table["grade"].value_counts().to_dict() == {3: 255, 4: 249, 2: 188}
    assert table["sex"].value_counts().to_dict() == {"M": 398, "F": 295}

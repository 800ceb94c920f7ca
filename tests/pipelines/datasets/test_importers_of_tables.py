"""Every importer of molecular releases: read, stored as a cohort, read back, twice with the same bytes."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.datasets import IMPORTERS, importer
from pipelines.datasets.checks import check_release
from pipelines.datasets.release import read_matrix, write_release
from services.shared.cohort import PARTICIPANT_COLUMNS, read_cohort
from services.shared.errors import InvalidValue, UnreadableFile

CEL = "Sample,CD44,GPX4\nGSM2,1.5,2\nGSM1,3,4\n"
BARCODES = "sample\tTCGA-01-0002-01\tTCGA-01-0001-01\nCD44\t1.5\t2\nGPX4\t3\t4.5\n"
FILES = {
    "tcga": {
        "s1.csv": "patient,Study,Histology,Grade,Age..years.at.diagnosis.,Gender,Survival..months.,"
        "Vital.status..1.dead.,IDH.status,X1p.19q.codeletion,IDH.codel.subtype,MGMT.promoter.status,ATRX.status\n"
        "TCGA-01-0002,LGG,astrocytoma,G2,31,female,4.5,0,Mutant,non-codel,IDHmut-non-codel,NA,Mutant\n"
        "TCGA-01-0001,GBM,glioblastoma,G4,71,male,9.5,1,WT,non-codel,IDHwt,Methylated,WT\n"
    },
    "porpoise": {
        "tcga_x_all_clean.csv": "case_id,slide_id,age,survival_months,censorship,is_female,oncotree_code,CD44_rnaseq,"
        "ATRX_mut,EGFR_cnv\nTCGA-01-0002,a,63,4.5,0,1,GBM,-0.5,1,2\nTCGA-01-0001,b,40,12,1,0,ODG,0.7,0,0\n"
    },
    "tcga_expression": {"HiSeqV2.tsv": BARCODES},
    "cgga": {
        "CGGA.mRNAseq_325_clinical.txt": "CGGA_ID\tPRS_type\tHistology\tGrade\tGender\tAge\tOS\t"
        "Censor (alive=0; dead=1)\nCGGA_2\tPrimary\tO\tWHO II\tMale\t40\t365.25\t1\n"
        "CGGA_1\tPrimary\tGBM\tWHO IV\tFemale\t60\t30.4375\t0\n",
        "CGGA.mRNAseq_325.RSEM-genes.txt": "Gene_Name\tCGGA_1\tCGGA_2\nCD44\t100\t7\nGPX4\t1\t50\n",
    },
    "gliovis": {
        "x_expr.csv": CEL,
        "x_pdata.csv": "Sample,Histology,Grade,Subtype.svm,Age,Gender,survival,status\n"
        "GSM1,GBM,IV,Neural,40,M,4.5,1\nGSM2,GBM,IV,NA,50,F,NA,NA\n",
    },
}
CLINICAL = "ID,centre,idh\n{first},A,WT\n{second},B,NA\n"


def written(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    for file, text in FILES[name].items():
        (folder / file).write_text(text)
    ids = re.findall(r"TCGA-01-000\d|CGGA_\d|GSM\d", "".join(FILES[name].values()))
    clinical = tmp_path / "clinical.csv"
    clinical.write_text(CLINICAL.format(first=min(ids), second=max(ids)))
    return folder, clinical


@pytest.mark.parametrize("name", sorted(FILES))
def test_blank_rows_of_a_spreadsheet_change_nothing_and_are_counted(tmp_path, name):
    folder, clinical = written(tmp_path, name)
    before = importer(name).read_release(folder, participants=clinical)
    for path in [*folder.iterdir(), clinical]:
        header = path.read_text().splitlines()[0]
        path.write_text(path.read_text() + re.sub(r"[^,\t]", "", header) + "\n")
    after = importer(name).read_release(folder, participants=clinical)
    assert after.participants.equals(before.participants)
    for matrix in before.matrices:
        assert after.matrices[matrix].equals(before.matrices[matrix])
    blank = {f"blank rows of {path.name}": 1 for path in [*folder.iterdir(), clinical]}
    assert after.counted == {**before.counted, **blank}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_table_cut_in_the_middle_of_a_line_is_refused(tmp_path, name):
    folder, _ = written(tmp_path, name)
    for path in sorted(folder.iterdir()):
        text = path.read_text().rstrip("\n")
        mark = "\t" if "\t" in text else ","
        path.write_text(text[: text.rindex(mark)])
        with pytest.raises(UnreadableFile, match=re.escape(path.name)):
            importer(name).read_release(folder)
        path.write_text(text)


def test_options_are_those_of_the_importer():
    assert importer("tcga").options() == {}
    assert importer("upenn_gbm").options() == {"segmentation": ("automatic", "corrected_where_present")}
    assert importer("tcga_expression").options() == {"scale": ("log2", "z-score", "linear", "counts")}


def test_an_option_is_handed_on_and_others_are_refused(tmp_path, storage):
    folder, _ = written(tmp_path, "tcga_expression")
    run = CliRunner()
    for options, words in (
        (["scale=linear"], ""),
        (["scale=logged"], "no such value"),
        (["unit=linear"], "no such option"),
        (["scale"], "NAME=VALUE"),
        (["scale=log2", "scale=linear"], "twice"),
    ):
        given = [part for option in options for part in ("--option", option)]
        result = run.invoke(app, ["import", "tcga_expression", str(folder), f"c{len(words)}", *given])
        if words:
            assert isinstance(result.exception, InvalidValue)
            assert words in str(result.exception)
        else:
            assert result.exit_code == 0
            statement = json.loads(storage.read_text("raw/c0/import.json"))
            assert statement["counted"]["matrices taken as linear, as asked"] == 1
    refused = run.invoke(app, ["import", "nifti", str(folder), "c", "--option", "scale=log2"])
    assert "no options" in str(refused.exception)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_release_becomes_a_cohort_and_reads_back(tmp_path, storage, name):
    assert IMPORTERS[name]
    folder, clinical = written(tmp_path, name)
    release = importer(name).read_release(folder, participants=clinical)
    assert check_release(release).participants.equals(release.participants)
    write_release(storage, "c", release)
    cohort = read_cohort(storage, "c").participants
    assert cohort["participant_id"].tolist() == release.participants["participant_id"].tolist()
    assert len(cohort) == 2
    assert cohort["centre"].tolist() == ["A", "B"]
    shared = [column for column in PARTICIPANT_COLUMNS if column in release.participants]
    pd.testing.assert_frame_equal(
        cohort[shared].astype(object).where(cohort[shared].notna(), None),
        release.participants[shared].astype(object).where(release.participants[shared].notna(), None),
        check_dtype=False,
    )
    for matrix, values in release.matrices.items():
        back = read_matrix(storage, "c", matrix)
        assert back.index.tolist() == cohort["participant_id"].str.removeprefix("sub-").tolist()
        pd.testing.assert_frame_equal(back, values)
        assert release.scale[matrix]
    assert release.matrices or name == "tcga"
    assert release.licence


@pytest.mark.parametrize("name", sorted(FILES))
def test_every_column_has_a_meaning_and_the_same_release_gives_the_same_bytes(tmp_path, storage, name):
    folder, _ = written(tmp_path, name)
    contents = []
    for _ in range(2):
        keys = write_release(storage, "c", importer(name).read_release(folder))
        contents.append({key: storage.read_bytes(key) for key in keys})
    assert contents[0] == contents[1]
    dictionary = json.loads(storage.read_text("raw/c/participants.json"))
    assert list(dictionary) == read_cohort(storage, "c").participants.columns.tolist()
    assert "As in the source" not in {entry["Description"] for entry in dictionary.values()}
    statement = json.loads(storage.read_text("raw/c/import.json"))
    assert sorted(statement["sources"]) == sorted(FILES[name])
    assert statement["patients"] == 2


@pytest.mark.parametrize("name", sorted(FILES))
def test_the_order_of_rows_does_not_matter(tmp_path, name):
    folder, clinical = written(tmp_path, name)
    before = importer(name).read_release(folder, participants=clinical)
    for path in folder.iterdir():
        header, *rows = path.read_text().splitlines()
        path.write_text("\n".join([header, *reversed(rows)]) + "\n")
    after = importer(name).read_release(folder, participants=clinical)
    pd.testing.assert_frame_equal(before.participants, after.participants)
    for matrix, values in before.matrices.items():
        pd.testing.assert_frame_equal(values, after.matrices[matrix])


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "source", "patients"),
    [
        ("tcga", "tcga_glioma_clinical", 1122),
        ("tcga_expression", "tcga_glioma_expression/verhaak2010_core840_gbm.txt", 173),
        ("cgga", "cgga_clinical_693", 693),
    ],
)
def test_published_releases_become_cohorts(real_data, storage, name, source, patients):
    tcga = real_data / "tcga_glioma_clinical" if name == "tcga_expression" else None
    release = importer(name).read_release(real_data / source, participants=tcga)
    write_release(storage, "c", release)
    assert len(read_cohort(storage, "c").participants) == patients
    dictionary = json.loads(storage.read_text("raw/c/participants.json"))
    assert "As in the source" not in {entry["Description"] for entry in dictionary.values()}

from __future__ import annotations

import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from pipelines.fetch.gdc_expression import plan_expression
from pipelines.fetch.plan import Selection
from pipelines.fetch.run import fetch_release
from pipelines.fetch.star_counts import read_star_counts
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, Unavailable, UnreadableFile
from tests.pipelines.fetch.conftest import GENES, star_counts

EXPRESSION = "tcga-glioma-expression"


@pytest.fixture
def project(stand_in):
    stand_in.add_sample("TCGA-DU-5849")
    stand_in.add_sample("TCGA-CS-4941", aliquot="11R-1470-07")
    stand_in.add_sample("TCGA-CS-4942")
    stand_in.add_sample("TCGA-CS-4942", vial="02A")
    return stand_in


def matrix(path):
    return pd.read_csv(path, sep="\t", index_col=0)


def test_counts_fpkm_and_tpm_become_genes_by_samples(project, quick, tmp_path):
    result = fetch_release(EXPRESSION, tmp_path, patience=quick)
    counts, fpkm, tpm = (matrix(tmp_path / f"{name}.tsv") for name in ("counts", "fpkm", "tpm"))
    assert counts.index.tolist() == GENES
    assert counts.columns.tolist() == [
        "gene_name",
        "TCGA-CS-4941-01A",
        "TCGA-CS-4942-01A",
        "TCGA-CS-4942-02A",
        "TCGA-DU-5849-01A",
    ]
    assert all(kind == np.int64 for kind in counts.dtypes.iloc[1:])
    sheet = pd.read_csv(tmp_path / "samples.tsv", sep="\t").set_index("sample")
    for sample, row in sheet.iterrows():
        own = read_star_counts(tmp_path / row["file"])
        pd.testing.assert_series_equal(counts[sample], own["unstranded"].astype(int), check_names=False)
        assert (fpkm[sample] == own["fpkm_unstranded"]).all()
        assert (tpm[sample] == own["tpm_unstranded"]).all()
    assert sheet.loc["TCGA-CS-4942-02A", ["patient", "sample_type"]].tolist() == ["TCGA-CS-4942", "Recurrent Tumor"]
    assert sheet.loc["TCGA-CS-4941-01A", "aliquot"] == "TCGA-CS-4941-01A-11R-1470-07"
    assert [file.path for file in result.files if not file.url] == ["counts.tsv", "fpkm.tsv", "samples.tsv", "tpm.tsv"]


def test_the_statement_names_source_time_and_checksums(project, quick, tmp_path):
    fetch_release(EXPRESSION, tmp_path, patience=quick)
    statement = json.loads((tmp_path / "fetched.json").read_text())
    assert statement["asked"] == "2026-11-21T06:21:04+00:00"
    assert statement["publisher"] == "GDC"
    assert "Genomic Data Sharing" in statement["licence"]
    for file in statement["files"]:
        content = (tmp_path / file["path"]).read_bytes()
        assert file["size"] == len(content)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        if file["url"]:
            assert file["md5"] == hashlib.md5(content).hexdigest()
            assert file["url"].startswith(f"{project.url}/data/")


def test_a_second_fetch_downloads_nothing_and_writes_nothing(project, quick, tmp_path):
    fetch_release(EXPRESSION, tmp_path, patience=quick)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*.*s*")}
    again = fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert (again.bytes, again.skipped, again.planned_bytes) == (0, 4, 0)
    assert len(project.asked("/data/")) == 4
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*.*s*")} == before
    (tmp_path / "fpkm.tsv").write_text("spoilt")
    assert fetch_release(EXPRESSION, tmp_path, patience=quick).bytes == 0
    assert matrix(tmp_path / "fpkm.tsv").shape == (30, 5)


def test_a_file_that_its_publisher_replaced_is_fetched_again(project, quick, tmp_path):
    fetch_release(EXPRESSION, tmp_path, patience=quick)
    file_id = str(project.gdc_files[0]["file_id"])
    project.restate(file_id, star_counts(99))
    result = fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert result.planned == (f"star_counts/{file_id}.tsv",)
    assert matrix(tmp_path / "counts.tsv")["TCGA-DU-5849-01A"].tolist() == (
        read_star_counts(tmp_path / f"star_counts/{file_id}.tsv")["unstranded"].tolist()
    )


def test_pages_are_read_to_the_end(project, quick, tmp_path, monkeypatch):
    project.page = 3
    assert len(fetch_release(EXPRESSION, tmp_path, dry_run=True, patience=quick).planned) == 4
    assert len(project.asked("/files")) == 2


def test_a_dry_run_writes_nothing(project, quick, tmp_path):
    out = tmp_path / "out"
    plan = fetch_release(EXPRESSION, out, limit=2, dry_run=True, patience=quick)
    assert not out.exists()
    assert len(plan.planned) == 3
    assert plan.planned_bytes == sum(len(project.files[f"/data/{path[12:-4]}"]) for path in plan.planned)
    assert plan.counted == {"patients": 2, "patients_listed": 3, "files_listed": 4, "samples": 3}
    assert project.asked("/data/") == []


def test_of_several_aliquots_the_last_barcode_is_taken_and_told(project, quick, tmp_path):
    later = project.add_sample("TCGA-CS-4941", aliquot="11R-A123-07")
    result = fetch_release(EXPRESSION, tmp_path, patience=quick)
    first = str(project.gdc_files[1]["file_id"])
    assert result.left_out == {first: "another aliquot of the sample was taken"}
    assert (tmp_path / f"star_counts/{later}.tsv").exists()
    assert not (tmp_path / f"star_counts/{first}.tsv").exists()


def test_controlled_and_shared_files_are_left_out_by_name(project, connection):
    project.gdc_files[0]["access"] = "controlled"
    project.gdc_files[1]["cases"] *= 2
    plan = plan_expression(connection, project.url, Selection(), projects=["TCGA-LGG"])
    assert sorted(plan.left_out.values()) == ["belongs to several patients", "controlled access"]
    assert len(plan.units) == 2


def test_the_publishers_file_name_is_never_used(project, quick, tmp_path):
    fetch_release(EXPRESSION, tmp_path / "a" / "b" / "c", patience=quick)
    assert not list(tmp_path.rglob("passwd*"))
    project.gdc_files[0]["file_id"] = "../../escape"
    with pytest.raises(UnreadableFile, match=r"0\.file_id"):
        fetch_release(EXPRESSION, tmp_path / "d", patience=quick)


def test_one_bad_file_is_named_and_no_matrix_is_made(project, quick, tmp_path):
    file_id = str(project.gdc_files[2]["file_id"])
    project.files[f"/data/{file_id}"] = b"X" + project.files[f"/data/{file_id}"][1:]
    result = fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert list(result.failed) == [f"star_counts/{file_id}.tsv"]
    assert len(result.files) == 3
    assert not (tmp_path / "counts.tsv").exists()
    assert not list(tmp_path.rglob("*.part*"))


def test_different_genes_are_no_matrix(project, quick, tmp_path):
    project.restate(str(project.gdc_files[3]["file_id"]), star_counts(5, GENES[:-1]))
    with pytest.raises(IdMismatch, match="29 genes"):
        fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert not (tmp_path / "counts.tsv").exists()
    assert not list(tmp_path.glob(".assemble*"))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda text: text.replace("fpkm_unstranded", "FPKM"), InvalidTable, "without fpkm_unstranded"),
        (lambda text: text.replace(f"{GENES[3]}\t", f"{GENES[2]}\t"), DuplicateId, GENES[2]),
        (lambda text: text.replace("protein_coding\t", "protein_coding\t-"), InvalidTable, "negative"),
        (lambda text: text.replace("protein_coding\t", "protein_coding\tx", 1), InvalidTable, "no number"),
        (lambda text: "\n".join(text.splitlines()[:6]), InvalidTable, "missing or negative"),
        (lambda text: "", UnreadableFile, "no table"),
        (lambda text: "<html>\n<p>a\tb\tc", InvalidTable, "lacks columns"),
    ],
)
def test_a_file_that_holds_no_star_counts(tmp_path, change, error, words):
    path = tmp_path / "a.tsv"
    path.write_text(change(star_counts(1).decode()))
    with pytest.raises(error, match=words):
        read_star_counts(path)


def test_many_genes_are_written_block_by_block(stand_in, quick, tmp_path):
    genes = [f"ENSG{number:011d}.1" for number in range(5000)]
    stand_in.restate(stand_in.add_sample("TCGA-CS-4941"), star_counts(3, genes))
    fetch_release(EXPRESSION, tmp_path, patience=quick)
    assert matrix(tmp_path / "counts.tsv").index.tolist() == genes


def test_an_empty_listing_and_one_that_changes_while_it_is_read(stand_in, quick, tmp_path, connection, monkeypatch):
    with pytest.raises(NotFound, match="nothing open"):
        fetch_release(EXPRESSION, tmp_path, patience=quick)
    for number in range(4):
        stand_in.add_sample(f"TCGA-CS-{number}")
    stand_in.page, ask = 2, connection.ask

    def ask_and_publish(url, *, body=None):
        answer = ask(url, body=body)
        stand_in.add_sample(f"TCGA-DU-{len(stand_in.requests)}")
        return answer

    monkeypatch.setattr(connection, "ask", ask_and_publish)
    with pytest.raises(Unavailable, match="changed while it was read"):
        plan_expression(connection, stand_in.url, Selection(), projects=["TCGA-LGG"])


def test_the_copy_on_y_never_shares_its_genes_name(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text(star_counts(1).decode().replace(f"{GENES[1]}\tGENE1\t", f"{GENES[0]}_PAR_Y\tGENE0\t"))
    assert read_star_counts(path)["gene_name"].tolist()[:3] == ["GENE0", "GENE0_PAR_Y", "GENE2"]

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.tcga_expression import read_release
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, UnreadableFile

SAMPLES = ("TCGA-01-0002-01", "TCGA-01-0001-01", "TCGA-01-0001-02", "TCGA-01-0003-11")


def matrix(path, genes, values, samples=SAMPLES, first="sample", index=True):
    frame = pd.DataFrame(values, columns=list(samples))
    frame.insert(0, first, genes)
    text = frame.to_csv(sep="\t", index=False, na_rep="NA")
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_xena_symbols(tmp_path):
    path = matrix(tmp_path / "HiSeqV2.gz", ["CD44", "GPX4"], [[1.5, 2.5, 3, 4], [10, 11, 12, 13]])
    for source in (path, tmp_path):
        found = read_release(source)
        assert found.matrices["expression"].to_dict("index") == {
            "TCGA010001": {"CD44": 2.5, "GPX4": 11.0},
            "TCGA010002": {"CD44": 1.5, "GPX4": 10.0},
            "TCGA01000311": {"CD44": 4.0, "GPX4": 13.0},
        }
    assert found.scale == {"expression": "log2(RSEM normalised count + 1)"}
    assert found.participants["source_id"].tolist() == ["TCGA-01-0001", "TCGA-01-0002", "TCGA-01-0003-11"]
    assert found.participants["tissue"].tolist() == ["tumour", "tumour", "normal"]
    assert found.dropped == {"TCGA-01-0001-02": "recurrent tumour"}
    array = matrix(
        tmp_path / "data_mrna_affymetrix_microarray.txt", ["CD44", "GPX4"], [[1.5, 2.5, 3, 4], [10, 11, 12, 13]]
    )
    assert read_release(array).scale == {"expression": "log2 expression"}


def test_xena_ensembl_ids_with_and_without_the_probe_map(tmp_path):
    samples = ("TCGA-01-0002-01B", "TCGA-01-0002-01A", "TCGA-01-0001-01A", "TCGA-01-0004-06A")
    ids = ["ENSG00000026508.1", "ENSG00000167468.2", "ENSG00000002586.3_PAR_Y"]
    path = matrix(
        tmp_path / "TCGA-LGG.htseq_fpkm.tsv", ids, [[1, 2, 3, 4.5], [5, 6, 7, 8], [0, 0, 0, 0]], samples, "Ensembl_ID"
    )
    found = read_release(path)
    assert found.matrices["expression"].columns.tolist() == ["ENSG00000026508", "ENSG00000167468"]
    assert found.matrices["expression"].loc["TCGA010002"].tolist() == [2, 6]
    assert found.scale == {"expression": "log2(FPKM + 1)"}
    assert found.counted["genes named by Ensembl id"] == 2
    assert found.dropped == {
        "TCGA-01-0002-01B": "a further sample of a patient who stays",
        "TCGA-01-0004-06A": "sample type 06, no primary tumour",
    }
    (tmp_path / "gencode.v22.annotation.gene.probeMap").write_text(
        f"id\tgene\tchrom\n{ids[0]}\tCD44\t1\n{ids[1]}\tGPX4\t1\n"
    )
    mapped = read_release(path)
    assert mapped.matrices["expression"].columns.tolist() == ["CD44", "GPX4"]
    assert mapped.counted["genes left out that have no symbol"] == 1
    assert "gencode.v22.annotation.gene.probeMap" in mapped.sources


def test_logged_read_counts_become_whole(tmp_path):
    counts = np.array([[0, 7, 1, 3], [1000, 2000, 31, 5]])
    path = matrix(tmp_path / "TCGA-LGG.htseq_counts.tsv", ["A", "B"], np.log2(counts + 1))
    found = read_release(path)
    assert found.matrices["counts"].loc["TCGA010002"].tolist() == [0, 1000]
    assert found.scale == {"counts": "read counts"}
    plain = matrix(tmp_path / "star_counts.tsv", ["A", "B"], counts)
    assert read_release(plain).matrices["counts"].equals(found.matrices["counts"])


def test_cbioportal(tmp_path):
    path = tmp_path / "data_mrna_seq_v2_rsem.txt"
    path.write_text(
        "Hugo_Symbol\tEntrez_Gene_Id\t" + "\t".join(SAMPLES[:2]) + "\nCD44\t960\t31\t63\n\t100133144\t1\t2\n"
        "GPX4\t2879\t0\t127\nNULLED\t1\tNA\tNA\nCD44\t960\t31\t63\n"
    )
    found = read_release(path)
    assert found.matrices["expression"].loc["TCGA010001"].to_dict() == {"CD44": 6.0, "GPX4": 7.0}
    assert found.scale == {"expression": "log2(RSEM + 1)"}
    assert found.counted == {
        "matrices taken as linear, by the range of values and the file's name": 1,
        "columns of annotation": 1,
        "genes left out that have no symbol": 1,
        "genes left out that a sample lacks": 1,
        "gene columns merged with another of the same symbol": 1,
    }
    scores = tmp_path / "data_mrna_seq_v2_rsem_zscores_ref_all_samples.txt"
    scores.write_text("Hugo_Symbol\tEntrez_Gene_Id\tTCGA-01-0001-01\nCD44\t960\t-0.5\nGPX4\t2879\t45\n")
    found = read_release(scores)
    assert found.scale == {"expression": "z-score of expression"}
    assert found.counted["z-scores beyond 10 in size"] == 1


def test_samples_by_genes_and_short_barcodes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("case_id,CD44,GPX4\nTCGA.01.0002,1.5,-2\nTCGA_01_0001,0,2\n")
    found = read_release(path)
    assert found.matrices["expression"]["GPX4"].to_dict() == {"TCGA010001": 2.0, "TCGA010002": -2.0}
    assert found.scale == {"expression": "log2 expression, centred per gene"}


def test_a_second_header_line_with_the_subtype(tmp_path):
    path = tmp_path / "core.txt"
    path.write_text(
        "CLID\tGO\tTCGA-01-0001-01A-01\tTCGA-01-0002-01A-01\nSubtype\tx\tNeural\tClassical\nCD44\tPN\t-1.5\t2\n"
    )
    found = read_release(path)
    assert found.participants["expression_subtype"].tolist() == ["Neural", "Classical"]
    assert found.matrices["expression"]["CD44"].tolist() == [-1.5, 2.0]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2], lines[1]]))
    assert read_release(path).participants.equals(found.participants)
    path.write_text("\n".join([lines[0], lines[2], lines[1].replace("Subtype", "Cluster")]))
    with pytest.raises(InvalidTable, match=r"text.*Cluster.*Neural"):
        read_release(path)


def test_a_stated_scale_goes_before_what_the_values_look_like(tmp_path):
    path = matrix(tmp_path / "fpkm.tsv", ["CD44", "GPX4"], [[1.5, 7, 3, 4], [15, 11.5, 12, 13]])
    told, stated = read_release(path), read_release(path, scale="linear")
    assert told.scale == stated.scale == {"expression": "log2(FPKM + 1)"}
    assert told.counted["matrices taken as log2, by the range of values and the file's name"] == 1
    assert stated.counted["matrices taken as linear, as asked"] == 1
    np.testing.assert_allclose(
        stated.matrices["expression"], np.log2(told.matrices["expression"] + 1), rtol=0, atol=1e-12
    )
    assert read_release(path, scale="z-score").scale == {"expression": "z-score of expression"}
    with pytest.raises(InvalidTable, match="logarithm"):
        read_release(path, scale="counts")


@pytest.mark.parametrize(
    ("name", "text", "error", "words"),
    [
        ("fpkm.tsv", "sample\tTCGA-01-0001-01\nCD44\t-3\nGPX4\t20\n", InvalidTable, "Negative"),
        ("counts.tsv", "sample\tTCGA-01-0001-01\nCD44\t3.5\nGPX4\t200\n", InvalidTable, "whole"),
        ("counts.tsv", "sample\tTCGA-01-0001-01\nCD44\t3.5\nGPX4\t7.25\n", InvalidTable, "no logarithm"),
        ("x.tsv", "Entrez_Gene_Id\tTCGA-01-0001-01\n960\t3.5\n", InvalidTable, "Entrez"),
        ("x.tsv", "gene\tTCGA-01-0001-01\n960\t3.5\n", InvalidTable, "entrez"),
        ("x.tsv", "sample\tTCGA-01-0001-01\tTCGA-01-0001-01\nCD44\t1\t2\n", DuplicateId, "TCGA-01-0001-01"),
        ("x.tsv", "sample\tTCGA-01-0001-02\nCD44\t1\n", InvalidTable, "no primary tumour"),
        ("x.tsv", "sample\tP1\tP2\nCD44\t1\t2\n", InvalidTable, "barcodes"),
        ("x.tsv", "sample\tTCGA-01-0001-01\nCD44\thigh\n", InvalidTable, "case TCGA-01-0001-01.*text.*CD44.*high"),
        ("x.tsv", "sample\tTCGA-01-0001-01\nSubtype\tCL\nCD44\thigh\n", InvalidTable, "text.*high"),
        ("x.tsv", "sample\tTCGA-01-0001-01\nCD44\tNA\n", InvalidTable, "no number"),
        ("x.tsv", "", UnreadableFile, "x.tsv"),
    ],
)
def test_matrices_that_would_give_a_wrong_result(tmp_path, name, text, error, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_release(path)


def test_matrices_of_one_folder_become_one(tmp_path):
    matrix(tmp_path / "TCGA-LGG.htseq_fpkm.tsv", ["CD44", "GPX4", "LGG1"], [[1, 2], [3, 4], [5, 6.5]], SAMPLES[:2])
    gbm = ("TCGA-02-0001-01A", "TCGA-02-0001-11A")
    matrix(tmp_path / "TCGA-GBM.htseq_fpkm.tsv.gz", ["GPX4", "CD44"], [[7, 8], [9, 0.5]], gbm)
    matrix(tmp_path / "TCGA-GBM.htseq_counts.tsv", ["GPX4", "CD44"], [[7, 8], [90, 5]], gbm)
    (tmp_path / "clinical.tsv").write_text("ID\tgrade\nTCGA-02-0001\t4\n")
    found = read_release(tmp_path, participants=tmp_path / "clinical.tsv")
    expected = {
        "TCGA010001": {"CD44": 2.0, "GPX4": 4.0},
        "TCGA010002": {"CD44": 1.0, "GPX4": 3.0},
        "TCGA020001": {"CD44": 9.0, "GPX4": 7.0},
        "TCGA02000111": {"CD44": 0.5, "GPX4": 8.0},
    }
    assert found.matrices["expression"].to_dict("index") == expected
    assert found.matrices["counts"].index.tolist() == ["TCGA020001", "TCGA02000111"]
    assert found.participants["tissue"].tolist() == ["tumour", "tumour", "tumour", "normal"]
    assert found.participants["grade"].notna().sum() == 1
    assert found.counted["genes that another matrix of the folder lacks"] == 1
    matrix(tmp_path / "x_zscores.tsv", ["GPX4", "CD44"], [[7, 8], [9, 0.5]], ("TCGA-03-0001-01", "TCGA-03-0002-01"))
    with pytest.raises(InvalidTable, match="different scales"):
        read_release(tmp_path)
    (tmp_path / "x_zscores.tsv").unlink()
    matrix(tmp_path / "again_fpkm.tsv", ["GPX4", "CD44"], [[7], [9]], gbm[:1])
    with pytest.raises(DuplicateId, match="case TCGA020001"):
        read_release(tmp_path)


def test_a_clinical_table_of_other_patients_and_folders_of_several(tmp_path):
    path = matrix(tmp_path / "x.tsv", ["CD44"], [[1.5, 2.5, 3, 4]])
    clinical = tmp_path / "c.csv"
    clinical.write_text("ID,grade\nTCGA-09-0001,2\n")
    with pytest.raises(IdMismatch):
        read_release(path, participants=clinical)
    path.unlink()
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    with pytest.raises(NotFound, match=r"c\.csv, d\.csv"):
        read_release(tmp_path)
    with pytest.raises(NotFound):
        read_release(tmp_path / "absent")


@pytest.mark.real
def test_published_core_genes_of_glioblastoma(real_data):
    found = read_release(
        real_data / "tcga_glioma_expression" / "verhaak2010_core840_gbm.txt",
        participants=real_data / "tcga_glioma_clinical",
    )
    assert found.matrices["expression"].shape == (173, 840)
    assert found.participants["expression_subtype"].nunique() == 4
    assert (found.participants["grade"] == 4).all()
    assert found.participants["event"].sum() == 165

from __future__ import annotations

import numpy as np
import pytest

from pipelines.datasets.bakas import is_bakas_folder, read_bakas
from pipelines.studies import grading
from services.shared.errors import DuplicateId, NotFound


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "TCGA_GBM_radiomicFeatures.csv").write_text("ID,Date,V1,V2\nTCGA-02,1996.08.23, 1 ,#DIV/0!\n")
    (tmp_path / "TCGA_LGG_radiomicFeatures.csv").write_text("ID,Date,V1,V3\n TCGA-01 ,1996.08.23,NaN,Inf\n")
    return tmp_path


def test_both_tables_become_one(folder):
    found = read_bakas(folder)
    assert is_bakas_folder(folder)
    assert found.features.index.tolist() == ["TCGA-01", "TCGA-02"]
    assert found.features.columns.tolist() == ["V1", "V2", "V3"]
    assert found.features["V1"].isna().tolist() == [True, False]
    assert found.features[["V2", "V3"]].isna().all().all()
    assert found.labels.tolist() == ["LGG", "HGG"]
    assert found.left_out == {"Date": "bookkeeping"}
    assert found.in_one_file == ("V2", "V3")
    assert found.infinite == 1


def test_a_missing_table_and_a_patient_in_both_are_errors(folder):
    (folder / "TCGA_LGG_radiomicFeatures.csv").write_text("ID,V1\nTCGA-02,1\n")
    with pytest.raises(DuplicateId, match="TCGA-02"):
        read_bakas(folder)
    (folder / "TCGA_LGG_radiomicFeatures.csv").unlink()
    assert not is_bakas_folder(folder)
    with pytest.raises(NotFound, match="TCGA_LGG_"):
        read_bakas(folder)


@pytest.mark.real
def test_published_radiomics_tell_grades_apart(real_data):
    folder = real_data / "tcia_bakas_radiomics"
    if not is_bakas_folder(folder):
        pytest.skip("no tables in tcia_bakas_radiomics")
    tables = read_bakas(folder)
    assert tables.features.shape == (167, 724)
    assert not np.isinf(tables.features.to_numpy()).any()
    result = grading.run(tables.features, tables.labels, parameters=grading.Parameters(permutations=0), seed=1)
    assert result.metrics["auc"] > 0.85
    assert result.metrics["auc_low"] > 0.8

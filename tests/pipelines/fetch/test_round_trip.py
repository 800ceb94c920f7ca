from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.tcga_expression import read_release
from pipelines.fetch.run import fetch_release


@pytest.mark.parametrize(
    ("file", "matrix"), [("counts.tsv", "counts"), ("fpkm.tsv", "expression"), ("tpm.tsv", "expression")]
)
def test_what_is_fetched_can_be_imported(stand_in, quick, tmp_path, file, matrix):
    for patient in ("TCGA-CS-4941", "TCGA-CS-4942", "TCGA-DU-5849"):
        stand_in.add_sample(patient)
        stand_in.gdc_cases.append(
            {"id": patient, "submitter_id": patient, "demographic": {"vital_status": "Dead", "days_to_death": 609}}
        )
    stand_in.add_sample("TCGA-CS-4942", vial="02A")
    fetch_release("tcga-glioma-expression", tmp_path / "expression", patience=quick)
    fetch_release("tcga-glioma-clinical", tmp_path / "clinical", patience=quick)
    release = read_release(tmp_path / "expression" / file, participants=tmp_path / "clinical" / "participants.tsv")
    assert release.dropped == {"TCGA-CS-4942-02A": "recurrent tumour"}
    assert release.participants["os_months"].tolist() == pytest.approx([609 / 30.4375] * 3)
    assert release.participants["event"].tolist() == [1, 1, 1]
    published = pd.read_csv(tmp_path / "expression" / file, sep="\t").set_index("gene_name")["TCGA-DU-5849-01A"]
    imported = release.matrices[matrix].loc["TCGADU5849"]
    expected = published if matrix == "counts" else np.log2(published + 1)
    pd.testing.assert_series_equal(imported, expected.loc[imported.index], check_names=False, check_dtype=False)
    assert len(imported) == 30

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pipelines.datasets.expression_values import expression_values, join_expression, mend_r_names
from services.shared.errors import IdMismatch, InvalidTable


def table(genes, *rows):
    return pd.DataFrame(list(rows), columns=pd.Index(genes, dtype=object), index=[f"S{i}" for i in range(len(rows))])


def test_linear_values_are_merged_then_logged_and_everything_is_counted():
    found = expression_values(
        table(["GPX4", "CD44", "GPX4", None, "?", "LOST", "FLAT"],
              [100, 3, 200, 1, 1, np.nan, 7], [40, 1, 40, 1, 1, 2, 7]),
        unit="linear", step="s",
    )  # fmt: skip
    assert found.values.columns.tolist() == ["CD44", "FLAT", "GPX4"]
    np.testing.assert_allclose(found.values["GPX4"], np.log2([151, 41]))
    assert found.counted == {
        "genes left out that have no symbol": 2,
        "genes left out that a sample lacks": 1,
        "gene columns merged with another of the same symbol": 1,
        "genes that do not vary": 1,
    }


def test_counts_of_one_symbol_are_summed_and_stay_whole():
    found = expression_values(table(["A", "A", "B"], [1.0, 2.0, 5.0], [0, 1, 7]), unit="counts", step="s")
    assert found.values.to_dict("list") == {"A": [3, 1], "B": [5, 7]}
    assert found.values.dtypes.unique().tolist() == [np.dtype(np.int64)]


def test_names_with_entrez_numbers_and_versions():
    assert expression_values(table(["TP53|7157"], [1.5]), unit="log2", step="s").values.columns.tolist() == ["TP53"]
    ids = ["ENSG00000141510.11", "ENSG00000002586.18_PAR_Y", "ENSG00000002586.18"]
    found = expression_values(table(ids, [1.0, 2, 3]), unit="log2", step="s", ensembl=True)
    assert found.values.columns.tolist() == ["ENSG00000002586", "ENSG00000141510"]
    assert found.counted["genes named by Ensembl id"] == 2


@pytest.mark.parametrize(
    ("genes", "row", "unit", "words"),
    [
        (["7157", "2879"], [1, 2], "log2", "symbol.*entrez.*7157"),
        ([7157.0, 2879.0], [1, 2], "log2", "entrez"),
        (["ENSG00000141510.1"], [1], "log2", "ensembl"),
        (["?", None], [1, 2], "log2", "no gene"),
        (["A", "B"], [-3, 100], "linear", "Negative"),
        (["A", "B"], [3.5, 12], "linear", "already logged"),
        (["A", "B"], [3.5, 120], "log2", "too large"),
        (["A", "B"], [3.5, 120], "counts", "whole"),
        (["A", "B"], [-1, 120], "counts", "Negative"),
        (["A", "B"], ["x", 120], "log2", "case S0.*text.*field: A.*x"),
        (["A", "A"], ["x", 120], "linear", "text"),
        (["A", "B"], [np.inf, 1], "z-score", "infinite"),
    ],
)
def test_what_would_give_a_wrong_result_is_refused(genes, row, unit, words):
    with pytest.raises(InvalidTable, match=words):
        expression_values(table(genes, row), unit=unit, step="s")


def test_dots_become_hyphens_where_hgnc_has_them_and_nowhere_else():
    given = [
        "HLA.A",
        "A1BG.AS1",
        "NKX2.1",
        "MIR9.1",
        "IGHV5.78",
        "AC004893.11",
        "RP11.90M2.3",
        "ERV3.1",
        "DTX2P1.UPK3BP1",
    ]
    names, mended = mend_r_names([*given, "KRTAP5.1", "KRTAP5-1"])
    assert names[:6] == ["HLA-A", "A1BG-AS1", "NKX2-1", "MIR9-1", "IGHV5-78", "AC004893.11"]
    assert names[6:] == ["RP11.90M2.3", "ERV3-1", "DTX2P1.UPK3BP1", "KRTAP5.1", "KRTAP5-1"]
    assert mended == 6


def test_only_patients_of_both_tables_stay():
    clinical = pd.DataFrame({"grade": [2, 3]}, index=["P-1", "P-2"])
    values = pd.DataFrame({"CD44": [1.0, 2.0]}, index=["P-2", "P-3"])
    kept, matrix, dropped = join_expression(clinical, values, step="s")
    assert kept.index.tolist() == ["P-2"]
    assert matrix.index.tolist() == ["P2"]
    assert dropped == {"P-1": "no expression", "P-3": "no clinical row"}
    with pytest.raises(IdMismatch, match="P-1"):
        join_expression(clinical, values.set_axis(["X", "Y"]), step="s")

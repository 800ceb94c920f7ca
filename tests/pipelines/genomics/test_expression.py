"""Preparation of expression tables: what is refused, what is put right and counted."""

import numpy as np
import pandas as pd
import pytest

from pipelines.genomics.expression import (
    check_counts,
    check_expression,
    detect_scale,
    fit_low_expression_filter,
    gene_id_kind,
    merge_duplicates,
    prepare_expression,
    require_overlap,
    take_genes,
)
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, TooFewCases


def table(values: object, genes: list[str] | None = None) -> pd.DataFrame:
    values = np.asarray(values, dtype=float)
    genes = genes or [f"G{n}" for n in range(values.shape[1])]
    return pd.DataFrame(values, index=[f"s{n}" for n in range(len(values))], columns=genes)


def test_linear_units_become_log2_of_one_more() -> None:
    result = prepare_expression(table([[0, 127.0], [3, 31.5]]), unit="fpkm").values
    assert result.to_numpy().tolist() == [[0, 7], [2, np.log2(32.5)]]


def test_duplicate_symbols_are_merged_and_counted() -> None:
    frame = table([[1, 40, 3], [5, 60, 15]], ["CD44", "RRM2", "CD44"])
    mean = prepare_expression(frame, unit="tpm")
    assert mean.merged == {"CD44": 2}
    assert mean.values["CD44"].tolist() == [np.log2(3), np.log2(11)]
    largest = prepare_expression(frame, unit="tpm", duplicates="max")
    assert largest.values["CD44"].tolist() == [2, 4]
    assert list(merge_duplicates(frame).columns) == ["CD44", "RRM2"]


def test_duplicate_symbols_are_refused_where_nobody_merges_them() -> None:
    with pytest.raises(DuplicateId, match="CD44"):
        check_expression(table([[1, 2]], ["CD44", "CD44"]), step="here")


def test_duplicate_samples_are_refused() -> None:
    frame = table([[1, 99], [2, 3]])
    frame.index = ["s0", "s0"]
    with pytest.raises(DuplicateId, match="sample"):
        prepare_expression(frame, unit="fpkm")


@pytest.mark.parametrize("unit", ["fpkm", "tpm", "counts"])
def test_negative_values_name_sample_and_gene(unit: str) -> None:
    with pytest.raises(InvalidTable, match=r"s1.*G0.*-1") as error:
        prepare_expression(table([[5, 100], [-1, 200]]), unit=unit)
    assert error.value.case == "s1"


@pytest.mark.parametrize("unit", ["fpkm", "tpm"])
def test_logged_values_called_linear_are_refused(unit: str) -> None:
    with pytest.raises(InvalidTable, match="already logged"):
        prepare_expression(table([[5.25, 11.5], [1.5, 0]]), unit=unit)


def test_linear_values_called_log2_are_refused() -> None:
    with pytest.raises(InvalidTable, match="too large for a log2 scale"):
        prepare_expression(table([[5.25, 1100.5]]), unit="log2")


def test_log2_values_stay_even_where_negative() -> None:
    assert prepare_expression(table([[-1.5, 4]]), unit="log2").values.to_numpy().tolist() == [[-1.5, 4]]


def test_whole_counts_given_as_floats_are_counts_and_fractions_are_refused() -> None:
    assert check_counts(table([[5.0, 100.0]])).dtype == np.int64
    assert prepare_expression(table([[7.0, 127.0]]), unit="counts").values.to_numpy().tolist() == [[3, 7]]
    with pytest.raises(InvalidTable, match="whole numbers"):
        prepare_expression(table([[5.5, 100.0]]), unit="counts")
    with pytest.raises(InvalidTable, match="whole numbers"):
        check_counts(table([[5.5, 100.0]]))


def test_text_and_missing_values_are_refused_with_their_place() -> None:
    frame = table([[5, 100]])
    frame["G1"] = "high"
    with pytest.raises(InvalidTable, match="G1"):
        prepare_expression(frame, unit="fpkm")
    with pytest.raises(InvalidTable, match=r"s0.*G0"):
        prepare_expression(table([[np.nan, 100]]), unit="fpkm")
    with pytest.raises(TooFewCases):
        prepare_expression(table(np.empty((0, 2))), unit="fpkm")


@pytest.mark.parametrize(
    ("values", "scale"),
    [([[0, 900.5]], "linear"), ([[0, 900]], "counts"), ([[0, 14.2]], "log2"), ([[-3.1, 90.5]], "log2")],
)
def test_scale_is_recognised(values: object, scale: str) -> None:
    assert detect_scale(table(values)) == scale


def test_constant_genes_are_counted_and_filtered() -> None:
    frame = table([[7, 1, 0.0], [7, 3, 0.5], [7, 9, 0.2]])
    assert prepare_expression(frame, unit="log2").constant == ("G0",)
    chosen = fit_low_expression_filter(frame, least=1.0, in_fraction=0.5)
    assert (chosen.genes, chosen.dropped) == (("G1",), ("G0", "G2"))
    with pytest.raises(TooFewCases, match="low expression"):
        fit_low_expression_filter(frame, least=100)


def test_filter_is_that_of_training_whatever_it_is_applied_to() -> None:
    chosen = fit_low_expression_filter(table([[0, 5.5], [0, 6.5]]))
    assert list(chosen.apply(table([[9, 0], [8, 0]])).columns) == ["G1"]


@pytest.mark.parametrize(
    ("genes", "kind"),
    [
        (["CD44", "NOX1"], "symbol"),
        (["960", "27035"], "entrez"),
        ([960.0, 27035.0], "entrez"),
        (["ENSG00000026508", "ENSG00000007952.17"], "ensembl"),
        (["960", "CD44"], "mixed"),
    ],
)
def test_gene_identifiers_are_recognised(genes: list, kind: str) -> None:
    assert gene_id_kind(genes) == kind


def test_entrez_against_symbols_says_so() -> None:
    with pytest.raises(IdMismatch, match=r"entrez.*symbol"):
        require_overlap(["960", "27035"], ["CD44", "NOX1"], step="here")


def test_missing_signature_gene_is_named_never_filled() -> None:
    with pytest.raises(IdMismatch, match="NOX1"):
        take_genes(table([[1, 2]], ["CD44", "RRM2"]), ["CD44", "NOX1"])

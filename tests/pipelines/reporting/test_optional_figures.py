"""Figures of tables that only some studies write, at their edges."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from pipelines.reporting.model_figures import draw_delong, draw_models, performance_table
from pipelines.reporting.optional_tables import printed_table
from pipelines.reporting.picture import abbreviate, standalone_svg
from pipelines.reporting.selection_figures import (
    draw_correlation_matrix,
    draw_enrichment,
    draw_heat_map,
    draw_path,
    draw_ratios,
    draw_set_sizes,
    draw_volcano,
    ratio_ticks,
)
from pipelines.reporting.survival_figures import draw_decision_curves, draw_risk_scores, draw_survival, part_name

PERFORMANCE = pd.DataFrame(
    {
        "model": ["overall_radiomics", "clinical", "overall_radiomics", "clinical"],
        "part": ["train", "train", "cv", "cv"],
        "auc": [0.95, 0.7, 0.8, 0.6],
        "auc_low": [0.9, 0.6, 0.7, 0.5],
        "auc_high": [1.0, 0.8, 0.9, 0.7],
        "accuracy": [0.9, 0.7, 0.8, np.nan],
    }
)


def differential(chosen: int) -> pd.DataFrame:
    change = np.linspace(-3, 3, 31)
    table = pd.DataFrame({"gene": [f"G{i}" for i in range(31)], "log_fold_change": change, "p": 10 ** -np.abs(change)})
    return table.assign(differential=np.arange(31) >= 31 - chosen)


@pytest.mark.parametrize("chosen", [0, 3])
def test_volcano_counts_what_was_chosen(chosen: int) -> None:
    picture = draw_volcano("study", differential(chosen))
    assert f"{chosen} up, 0 down" in picture.caption
    assert ("G30" in picture.markup) == (chosen > 0)


def test_volcano_leaves_out_genes_without_a_value() -> None:
    table = differential(3)
    table.loc[0, "p"] = np.nan
    assert "30 genes" in draw_volcano("study", table).caption


def test_path_with_nothing_kept_and_with_names_cut() -> None:
    table = pd.DataFrame({"lambda": [1.0, 0.1], "chosen": [True, False], "coefficient_A": [0.0, 0.4]})
    assert "0 of 1 are not zero" in draw_path("study", table).caption
    table["chosen"] = [False, True]
    assert "A</text>" in draw_path("study", table).markup


def test_enrichment_names_the_strongest_sets_only() -> None:
    table = pd.DataFrame(
        {"collection": "go", "gene_set": [f"SET_{i:02d}" for i in range(40)], "overlap": 3, "fold": 2.0}
    )
    table["fdr"] = np.linspace(0.001, 0.9, 40)
    picture = draw_enrichment("study", table)
    assert "the first 16 of 40 with an overlap, 3 below 0.05" in picture.caption
    assert "Set 00" in picture.markup
    assert "Set 20" not in picture.markup


def test_heat_map_names_no_patient() -> None:
    table = pd.DataFrame(
        {"case_id": ["secret1", "secret2"], "risk_score": [1.0, 0.0], "group": ["high", "low"], "A": [1, -1]}
    )
    picture = draw_heat_map("study", table)
    assert "secret" not in picture.markup + picture.caption
    assert "in 2 patients by rising risk score; 1 of high risk" in picture.markup


def test_correlation_of_a_single_feature() -> None:
    assert "at most 0.00" in draw_correlation_matrix("study", pd.DataFrame({"feature": ["a"], "a": [1.0]})).caption


def test_ratios_without_a_limit_are_left_out() -> None:
    table = pd.DataFrame(
        {
            "covariate": ["age", "never", "grade"],
            "hazard_ratio": [1.2, np.inf, 2.5],
            "low": [1.0, 0.0, 1.1],
            "high": [1.4, np.inf, 5.0],
            "p_value": [0.2, 0.9, 0.01],
        }
    )
    picture = draw_ratios("study", table, label="Hazard ratio", title="Model", key="model")
    assert "the 2 smallest p of 3" in picture.caption
    assert picture.markup.index("grade") < picture.markup.index("age")


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.3, 4.0), (1e-3, 1e3)])
def test_ratio_axis_always_shows_one(low: float, high: float) -> None:
    ticks = ratio_ticks(low, high)
    assert any(np.isclose(ticks, 1.0))
    assert len(ticks) <= 8


def test_set_sizes_are_told() -> None:
    picture = draw_set_sizes("study", pd.DataFrame({"set": ["candidates", "signature"], "genes": [60, 0]}))
    assert "candidates 60; signature 0" in picture.caption


def test_models_are_drawn_out_of_fold_and_tabled_with_all() -> None:
    picture = draw_models("study", PERFORMANCE)
    assert "overall radiomics, out of fold 0.800 [0.700–0.900]" in picture.markup
    assert "0.950" not in picture.markup
    table = performance_table(PERFORMANCE)
    assert table.rows[0][:3] == ("overall radiomics", "training, apparent", "0.950\n[0.900–1.000]")
    assert table.rows[3][3] == "–"


def test_delong_counts_pairs() -> None:
    square = pd.DataFrame({"model": ["a", "b"], "a": [1.0, 0.01], "b": [0.01, 1.0]})
    picture = draw_delong("study", square, pd.Series({"a": 0.8, "b": 0.6}))
    assert "1 of 1 pairs lie below 0.05" in picture.caption


def test_decision_curves_without_parts_or_times() -> None:
    threshold = np.linspace(0.01, 0.99, 20)
    rows = [
        pd.DataFrame({"strategy": s, "threshold": threshold, "net_benefit": 0.1}) for s in ("all", "none", "fusion")
    ]
    assert "Decision curves of fusion" in draw_decision_curves("study", pd.concat(rows)).markup


def test_one_risk_group_alone_is_drawn() -> None:
    rows = pd.DataFrame({"months": [3.0, 5.0, 9.0], "event": [1, 0, 1], "group": "low", "risk_score": [0.1, 0.2, 0.0]})
    picture = draw_survival("study", "validation_far_away", rows, note="")
    assert "low risk 3 patients, 2 deaths" in picture.caption
    assert "validation far away" in picture.caption
    assert "0 patients lie above" in draw_risk_scores("study", "train", rows, cutoff=0.5).caption


def test_drawing_stands_alone_without_the_page() -> None:
    svg = standalone_svg(draw_volcano("study", differential(3)))
    assert svg is not None
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert not re.search(r"var\(--", svg)


def test_parts_have_names_in_words() -> None:
    assert [part_name(part) for part in ("train", "cv", "tuning", "validation_cgga_693")] == [
        "training, apparent",
        "out of fold",
        "tuning",
        "validation cgga 693",
    ]


def test_limits_stand_with_their_figure_in_a_printed_table() -> None:
    frame = pd.DataFrame(
        {
            "part": ["cv", "train"],
            "auc_12": [0.8, np.nan],
            "auc_12_low": [0.7, np.nan],
            "auc_12_high": [0.9, np.nan],
            "hazard_ratio": [2.0, 1.5],
            "low": [1.5, np.nan],
            "high": [2.5, 3.0],
        }
    )
    table = printed_table("Caption", frame)
    assert table.headers == ("Part", "Auc 12", "Hazard ratio")
    assert table.rows == (
        ("out of fold", "0.800\n[0.700–0.900]", "2.000\n[1.500–2.500]"),
        ("training, apparent", "–", "1.500"),
    )
    assert table.numeric == (1, 2)


def test_a_long_table_is_cut_and_says_so() -> None:
    table = printed_table("Caption", pd.DataFrame({"a": range(100)}))
    assert len(table.rows) == 60
    assert table.caption == "Caption (the first 60 of 100 rows)"


def test_names_are_cut_in_their_middle() -> None:
    assert abbreviate("short", 10) == "short"
    name = abbreviate("DTI_AD_ET_Histogram_Bins-16_RobustMeanAbsoluteDeviation", 20)
    assert len(name) == 20
    assert name.startswith("DTI_AD")
    assert name.endswith("Deviation")

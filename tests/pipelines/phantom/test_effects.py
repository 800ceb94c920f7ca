"""Planted links are there, the null phantom has none: at the level of labels, tumour plans, genes and survival."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipelines.phantom.clinic import draw_biology, draw_patient
from pipelines.phantom.effects import EFFECTS, Stream, random_stream
from pipelines.phantom.expression import GRADE_GENES, NOISE_GENES, SIGNATURE_GENES, draw_expression
from pipelines.phantom.tumour import draw_tumour_plan

COUNT = 400


def draw_cohort(seed: int, *, null: bool, count: int = COUNT) -> pd.DataFrame:
    """Labels as the table states them beside the plans that shape the images."""
    rows = []
    for i in range(count):
        patient = draw_patient(seed, i, subset="study", null=null)
        plan = draw_tumour_plan(seed, i, patient.biology)
        rows.append(
            {
                **patient.row,
                "enhancing_ml": plan.enhancing_ml,
                "core_ml": plan.core_ml,
                "core_heterogeneity": plan.core_heterogeneity,
                "texture_length_mm": plan.texture_length_mm,
                "necrosis": plan.necrosis,
                "fa": plan.fa,
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def planted():
    return draw_cohort(3, null=False)


@pytest.fixture(scope="module")
def null():
    return draw_cohort(3, null=True)


LINKS = [
    ("grade", 4, "enhancing_ml"),
    ("grade", 4, "core_ml"),
    ("grade", 4, "core_heterogeneity"),
    ("atrx", "Mutant", "texture_length_mm"),
    ("risk_group", "high", "necrosis"),
    ("risk_group", "high", "fa"),
    ("grade", 4, "age_years"),
    ("grade", 4, "os_months"),
    ("risk_group", "high", "os_months"),
]


def rank_test(table: pd.DataFrame, label: str, value: object, measure: str) -> float:
    chosen = table[label] == value
    return float(stats.mannwhitneyu(table.loc[chosen, measure], table.loc[~chosen, measure]).pvalue)


@pytest.mark.parametrize(("label", "value", "measure"), LINKS)
def test_planted_link_is_there(planted, label, value, measure):
    assert rank_test(planted, label, value, measure) < 1e-6


@pytest.mark.parametrize(("label", "value", "measure"), LINKS)
def test_null_link_is_not(null, label, value, measure):
    # Nine tests at a level of 1 % in all (Bonferroni), on one fixed seed.
    assert rank_test(null, label, value, measure) > 0.01 / len(LINKS)


def test_null_rejects_no_more_often_than_chance():
    p_values = [rank_test(draw_cohort(seed, null=True, count=40), "grade", 4, "enhancing_ml") for seed in range(100)]
    # Under the null 5 of 100 are expected below 0.05; 12 or more happen once in 230 times.
    assert sum(p < 0.05 for p in p_values) < 12


@pytest.mark.parametrize("null_cohort", [False, True])
def test_design_is_balanced_and_atrx_is_free_of_grade(null_cohort):
    table = draw_cohort(9, null=null_cohort, count=40)
    counts = pd.crosstab(table["grade"] == 4, table["atrx"])
    assert (counts == 10).all().all()
    assert (table["grade"] == 2).sum() == (table["grade"] == 3).sum() == 10


def test_atrx_does_not_show_in_volume_or_age(planted):
    for measure in ("core_ml", "enhancing_ml", "age_years", "necrosis"):
        assert rank_test(planted, "atrx", "Mutant", measure) > 0.01


def test_some_tumours_do_not_enhance(planted):
    absent = planted.groupby("grade")["enhancing_ml"].agg(lambda ml: (ml == 0).mean())
    assert absent[2] > absent[3] > absent[4] > 0
    assert absent[4] < 0.25


def test_a_case_does_not_depend_on_the_others():
    assert draw_patient(3, 17, subset="study") == draw_patient(3, 17, subset="study")
    assert draw_patient(3, 17, subset="study") != draw_patient(4, 17, subset="study")
    assert draw_biology(3, 17) == draw_patient(3, 17, subset="study", null=True).biology


def test_streams_do_not_repeat_each_other():
    draws = {random_stream(1, i, s).random() for i in range(20) for s in Stream}
    assert len(draws) == 20 * len(Stream)


def test_labels_follow_the_classification():
    table = draw_cohort(1, null=False)
    codeleted = table[table["codeletion_1p19q"] == "codel"]
    assert (codeleted["idh"] == "Mutant").all()
    assert (codeleted["atrx"] == "WT").all()
    assert (codeleted["grade"] < 4).all()
    assert (table.loc[table["histology"] == "Glioblastoma", "idh"] == "WT").all()
    assert table["event"].isin([0, 1]).all()
    assert 0.3 < table["event"].mean() < 0.9
    assert (table["os_months"] > 0).all()
    assert table["os_months"].max() <= 96


def test_survival_has_the_planted_hazard_ratio():
    # With exp(x) unit exponentials a Weibull death time to the power of its shape is exponential with the planted
    # rate; so deaths / exposure**shape estimates the rate, and its ratio between groups the hazard ratio.
    table = draw_cohort(2, null=False, count=4000)
    exposure = table["os_months"] ** EFFECTS.survival_shape
    age = np.exp(EFFECTS.log_hazard_age_decade * (table["age_years"] - 50) / 10)
    atrx = np.exp(EFFECTS.log_hazard_atrx_mutant * (table["atrx"] == "Mutant"))
    low = (table["grade"] == 2) & (table["risk_group"] == "low")
    for chosen, expected in (
        ((table["grade"] == 4) & (table["risk_group"] == "low"), EFFECTS.log_hazard_grade[4]),
        ((table["grade"] == 2) & (table["risk_group"] == "high"), EFFECTS.log_hazard_high_risk),
    ):
        rates = [table.loc[g, "event"].sum() / (exposure * age * atrx)[g].sum() for g in (chosen, low)]
        assert np.log(rates[0] / rates[1]) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("null_cohort", [False, True])
def test_genes_carry_risk_and_grade_unless_null(null_cohort):
    patients = [draw_patient(6, i, subset="study", null=null_cohort) for i in range(200)]
    expression, counts = draw_expression(6, patients, null=null_cohort)
    high = np.array([p.row["risk_group"] == "high" for p in patients])
    grade = np.array([p.row["grade"] for p in patients])
    for gene, sign in SIGNATURE_GENES.items():
        difference = expression.loc[high, gene].mean() - expression.loc[~high, gene].mean()
        expected = 0 if null_cohort else sign * EFFECTS.signature_gene_log2
        assert difference == pytest.approx(expected, abs=0.5), gene
    slopes = [np.polyfit(grade, expression[gene], 1)[0] for gene in GRADE_GENES]
    assert np.mean(slopes) == pytest.approx(0 if null_cohort else EFFECTS.grade_gene_log2, abs=0.15)
    p_values = [stats.ttest_ind(expression.loc[high, g], expression.loc[~high, g]).pvalue for g in NOISE_GENES[10:]]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert np.corrcoef(np.log2(counts["CD44"] + 1), expression["CD44"])[0, 1] > 0.7


def test_genes_of_the_first_cases_do_not_depend_on_how_many_follow():
    patients = [draw_patient(6, i, subset="study") for i in range(5)]
    few, many = draw_expression(6, patients[:3], null=False), draw_expression(6, patients, null=False)
    assert few[0].equals(many[0].iloc[:3])
    assert few[1].equals(many[1].iloc[:3])


def test_document_states_the_table():
    text = (Path(__file__).parents[3] / "docs" / "phantom.md").read_text()
    rows = {
        row.split("|")[1].split("(")[0].strip(): [
            float(re.search(r"[\d.]+", cell).group()) for cell in row.split("|")[2:5]
        ]
        for row in text.splitlines()
        if row.count("|") == 5 and re.search(r"\d", row.split("|")[2])
    }
    percent = {
        name: {g: 100 * p for g, p in getattr(EFFECTS, name).items()}
        for name in (
            "rim_probability",
            "rim_coverage",
            "high_risk_probability",
            "idh_mutant_probability",
            "mgmt_methylated_probability",
        )
    }
    stated = {
        "tumour core's mean radius": EFFECTS.core_radius_mm,
        "oedema's width": EFFECTS.oedema_width_mm,
        "probability of an enhancing rim": percent["rim_probability"],
        "rim thickness": EFFECTS.rim_thickness_mm,
        "share of the shell that enhances": percent["rim_coverage"],
        "necrosis in the core, 0 to 1": EFFECTS.necrosis,
        "heterogeneity of the core, all sequences": EFFECTS.core_heterogeneity,
        "mean diffusivity of the core": EFFECTS.tumour_md_um2_ms,
        "probability of high risk": percent["high_risk_probability"],
        "mean age": EFFECTS.age_years,
        "IDH mutant": percent["idh_mutant_probability"],
        "MGMT methylated": percent["mgmt_methylated_probability"],
    }  # fmt: skip
    assert {name: rows[name] for name in stated} == {
        name: pytest.approx([values[g] for g in (2, 3, 4)]) for name, values in stated.items()
    }
    for length in EFFECTS.texture_length_mm.values():
        assert f" {length:g} mm |" in text
    for ratio in (
        EFFECTS.log_hazard_grade[3],
        EFFECTS.log_hazard_grade[4],
        EFFECTS.log_hazard_high_risk,
        EFFECTS.log_hazard_atrx_mutant,
        EFFECTS.log_hazard_age_decade,
    ):
        assert f"{np.exp(ratio):.2g} " in text or f"{np.exp(ratio):.3g} " in text

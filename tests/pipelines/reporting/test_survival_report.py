"""The page of a cohort of tables with a survival study."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pandas as pd
import pytest

from pipelines.modelling.survival_study import SurvivalStudyResult
from pipelines.reporting.comparison import our_figures, paper_table
from pipelines.reporting.optional_tables import nomogram_figures, read_nomogram
from pipelines.reporting.report import overview_tables, report_key, summary_table, write_report
from pipelines.reporting.sources import STUDY_TABLES, read_studies
from pipelines.reporting.survival_section import figure_name, judge_survival
from services.shared.storage import Storage

COHORT = "small"
FOLDER = f"studies/{COHORT}/ferroptosis"
FIGURES = f"reports/{COHORT}/figures/ferroptosis"


@pytest.fixture(scope="module")
def page(survival_storage: Storage) -> str:
    return survival_storage.read_text(report_key(COHORT))


def test_sections_of_a_survival_study_are_there(page: str, survival_result: SurvivalStudyResult) -> None:
    for part in ("training, apparent", "out of fold", "validation freije", "permuted follow-up"):
        assert part in page
    for caption in (
        "Survival studies, with 95 % intervals",
        "Beside the paper: Front Neurosci 2022;16:1082867",
        "Features of the final model",
        "Clinical against integrated nomogram",
        "Further figures by group of patients",
        "Characteristics by risk group, training, apparent",
        "Outer folds",
        "Over-represented gene sets",
        "Where the data come from",
        "TRIPOD+AI",
        "Left out, by step and reason",
    ):
        assert caption in page
    for figure in (
        "Kaplan–Meier curves with 95 % limits, validation freije",
        "Volcano plot of 200 genes",
        "Decision curves",
        "Calibration of the integrated nomogram",
        "Heat map of 4 features",
        "Time-dependent AUC",
        "Clinical nomogram of",
        "Paths of",
    ):
        assert figure in page
    for feature in survival_result.tables["features"]["feature"]:
        assert feature in page
    assert "#images" not in page


def test_figures_of_the_overview_are_the_metrics(page: str, survival_result: SurvivalStudyResult) -> None:
    metrics = survival_result.metrics
    for name in ("cv_c_index", "validation_freije_c_index", "train_auc_12", "validation_freije_hazard_ratio"):
        assert f"{metrics[name]:.3f}\n[{metrics[f'{name}_low']:.3f}–{metrics[f'{name}_high']:.3f}]" in page
    assert f"{metrics['train_patients']} ({metrics['train_deaths']})" in page


def test_paper_stands_beside_ours(survival_storage: Storage, survival_result: SurvivalStudyResult) -> None:
    (study,) = read_studies(survival_storage, COHORT)
    table = paper_table(study)
    assert table is not None
    papers = [row for row in table.rows if row[:2] == ("AUC at 3 years", "paper")]
    assert [row[3] for row in papers] == ["0.930", "0.826"]
    ours = {row[2]: row[3] for row in table.rows if row[:2] == ("AUC at 3 years", "here")}
    assert ours["validation freije"].startswith(f"{survival_result.metrics['validation_freije_auc_36']:.3f}")
    assert all(table.rows[i][1] == "here" for i in table.flagged)
    reclassified = dict(our_figures(study, "nomogram_nri"))
    assert "validation freije, 12 months" in reclassified


def test_nobody_who_was_dropped_is_named(page: str) -> None:
    for label in ("TCGA-XX-1234", "TCGA-XX-9999", "tcga007"):
        assert label not in page
    assert "follow-up of … is negative" in page
    assert "scan of … lost" in page
    assert re.search(r"In the release 92; In the cohort 90; study ferroptosis 89", page)
    assert "study ferroptosis, tried on freije 50" in page


def test_text_of_a_study_is_escaped(page: str) -> None:
    assert "<b>survival</b>" not in page
    assert "&lt;b&gt;survival&lt;/b&gt;" in page
    assert "HALLMARK_<APOPTOSIS>" not in page


def test_figures_are_written_as_files_and_old_ones_go(survival_storage: Storage) -> None:
    old = f"{FIGURES}/of-an-earlier-run.svg"
    survival_storage.write_text(old, "<svg/>")
    write_report(survival_storage, COHORT)
    keys = survival_storage.files(FIGURES)
    assert old not in keys
    names = {key.rpartition("/")[2] for key in keys}
    expected = {"survival-train", "survival-validation_freije", "auc-by-time", "volcano", "nomogram", "decision-curves"}
    assert {f"{name}.svg" for name in expected} <= names
    for key in keys:
        drawing = ElementTree.fromstring(survival_storage.read_text(key))
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(--" not in survival_storage.read_text(key)


def test_same_storage_gives_the_same_bytes(survival_storage: Storage) -> None:
    keys = [report_key(COHORT), *survival_storage.files(FIGURES)]
    before = {key: survival_storage.sha256(key) for key in keys}
    write_report(survival_storage, COHORT)
    assert {key: survival_storage.sha256(key) for key in keys} == before


def test_tables_that_a_study_did_not_write_do_not_break(storage: Storage, fill_tables: Callable[..., None]) -> None:
    fill_tables(storage, tables=frozenset(STUDY_TABLES["survival"]))
    write_report(storage, COHORT)
    page = storage.read_text(report_key(COHORT))
    assert "Kaplan–Meier curves" in page
    for absent in ("Volcano", "Decision curves", "Outer folds", "omogram of", "Calibration of the signature"):
        assert absent not in page


def test_overview_is_text_of_both_kinds(survival_storage: Storage) -> None:
    (table,) = overview_tables(survival_storage, COHORT)
    assert [row[1] for row in table.rows] == [
        "training, apparent",
        "out of fold",
        "validation freije",
        "permuted follow-up",
    ]
    assert summary_table(survival_storage, COHORT) == ()


def test_judgement_follows_the_intervals(survival_storage: Storage) -> None:
    (study,) = read_studies(survival_storage, COHORT)
    study.metrics.update({"cv_c_index": 0.7, "cv_c_index_low": 0.6, "cv_c_index_high": 0.8})
    study.metrics.update({"permuted_c_index": 0.5, "permuted_c_index_low": 0.4, "permuted_c_index_high": 0.6})
    assert "0.700 [0.600–0.800] out of fold: the interval lies above 0.5" in judge_survival(study, None)
    assert "invents nothing" in judge_survival(study, None)
    study.metrics["permuted_c_index_low"] = 0.51
    assert "something leaks" in judge_survival(study, None)
    study.metrics["cv_c_index_low"] = 0.5
    assert "does not lie above 0.5" in judge_survival(study, None)


def test_nomogram_is_read_back_as_it_was_built(survival_storage: Storage, survival_result: SurvivalStudyResult) -> None:
    (study,) = read_studies(survival_storage, COHORT)
    described = json.loads(survival_result.documents["nomogram.json"])
    nomogram = read_nomogram(described)
    assert [axis.covariate for axis in nomogram.axes] == [axis["name"] for axis in described["covariates"]]
    frame = pd.DataFrame({axis.covariate: axis.levels[[-1]] for axis in nomogram.axes})
    total = sum(float(axis.points[-1]) for axis in nomogram.axes)
    assert nomogram.probability_at(total).shape == (len(described["outcomes"]), 1)
    assert list(frame) == [axis.covariate for axis in nomogram.axes]
    assert {picture.name for picture in nomogram_figures(study)} == {
        "ferroptosis-nomogram",
        "ferroptosis-nomogram-clinical",
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("auc_12", "AUC at 1 year"),
        ("brier_12_null", "Brier score at 12 months, no covariates"),
        ("nomogram_nri_36", "Net reclassification improvement at 36 months"),
        ("nomogram_calibration_slope_24_clinical", "Calibration slope at 24 months, clinical"),
        ("patients_high_risk", "Patients of high risk"),
    ],
)
def test_figures_have_names_in_words(name: str, words: str) -> None:
    assert figure_name(name) == words

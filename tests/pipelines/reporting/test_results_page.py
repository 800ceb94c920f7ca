"""RESULTS.md is written from what experiments left in storage."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.modelling.survival_study import SurvivalStudyResult
from pipelines.reporting.tables import Table
from services.shared.storage import Storage
from tests.benchmarks.experiments import (
    DATASETS,
    EXPERIMENTS,
    Experiment,
    read_run,
    record_key,
    run_experiments,
    with_needed,
)
from tests.benchmarks.results_page import markdown_table, results_page

COHORT = "small"
MADE = {
    "made": Experiment("ferroptosis", COHORT, "A made experiment"),
    "absent": Experiment("grading", "nowhere", "An experiment that never ran"),
    "broken": Experiment("atrx", "nowhere", "An experiment that failed"),
}


@pytest.fixture
def workspace(storage: Storage, fill_tables: Callable[..., None]) -> Storage:
    fill_tables(storage)
    storage.write_text(record_key("made"), json.dumps({"name": "made", "seconds": 12.3, "seed": 5}))
    storage.write_text(record_key("broken"), json.dumps({"name": "broken", "problem": "failed: too few cases"}))
    return storage


def test_page_holds_the_figures_of_the_metrics(workspace: Storage, survival_result: SurvivalStudyResult) -> None:
    page = results_page(workspace, MADE)
    metrics = survival_result.metrics
    for name in ("cv_c_index", "validation_freije_auc_24", "permuted_c_index", "train_hazard_ratio"):
        assert f"{metrics[name]:.3f} [{metrics[f'{name}_low']:.3f}–{metrics[f'{name}_high']:.3f}]" in page
    assert "| AUC at 2 years | paper | training (TCGA, 563 patients) | 0.917 |" in page
    assert "Why they differ:" in page
    assert "Seed 5; model `" in page
    assert "; 12 s." in page
    assert "Open access; cite its publisher" in page
    assert "`gliaflow study ferroptosis --cohort small`" in page


def test_page_says_what_did_not_run_or_failed(workspace: Storage) -> None:
    page = results_page(workspace, MADE)
    assert "Not run." in page[page.index("## An experiment that never ran") :]
    assert "No result: failed: too few cases" in page[page.index("## An experiment that failed") :]


def test_page_names_no_patient_and_is_the_same_twice(workspace: Storage) -> None:
    page = results_page(workspace, MADE)
    assert page == results_page(workspace, MADE)
    assert not re.search(r"TCGA-XX-\d|tcga\d{3}", page)
    assert "1 rows left out (follow-up of … is negative)" in page


def test_every_row_of_a_table_has_its_columns(workspace: Storage) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", results_page(workspace, MADE), flags=re.MULTILINE):
        lines = block.strip().split("\n")
        widths = {len(re.split(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1


def test_markdown_escapes_what_would_break_it() -> None:
    text = markdown_table(Table("Caption", ("A", "B"), (("x|y", "<script>\n1"),), numeric=(1,)))
    assert text.split("\n")[2:] == ["| A | B |", "| --- | ---: |", "| x\\|y | &lt;script> 1 |"]


def test_an_experiment_brings_those_that_it_needs() -> None:
    assert with_needed(["ferroptosis-imaging"]) == ["ferroptosis-tcga", "ferroptosis-imaging"]
    assert with_needed(EXPERIMENTS) == list(EXPERIMENTS)
    with pytest.raises(KeyError):
        with_needed(["nothing"])


def test_experiments_name_known_cohorts_and_studies() -> None:
    from pipelines.datasets import IMPORTERS
    from pipelines.studies import STUDIES

    for experiment in EXPERIMENTS.values():
        assert experiment.study in STUDIES
        assert {experiment.cohort, *experiment.validation} <= DATASETS.keys()
        assert set(experiment.after) <= EXPERIMENTS.keys()
    assert {dataset.importer for dataset in DATASETS.values()} <= IMPORTERS.keys()
    # Two experiments of one study on one cohort would take each other's place.
    places = [(experiment.study, experiment.cohort) for experiment in EXPERIMENTS.values()]
    assert len(places) == len(set(places))


def test_experiment_without_its_data_is_recorded_and_an_older_result_goes(storage: Storage, tmp_path: Path) -> None:
    storage.write_text("studies/bakas/grading/metrics.json", "{}")
    (run,) = run_experiments(storage, tmp_path, ["grading-bakas"])
    assert "skipped: there is no tcia_bakas_radiomics" in run.problem
    assert read_run(storage, "grading-bakas") == run
    assert not storage.exists("studies/bakas/grading/metrics.json")

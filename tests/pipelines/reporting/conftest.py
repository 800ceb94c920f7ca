"""A small cohort in the layout of storage, with everything that earlier steps leave behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from pipelines.datasets.release import Release, write_release
from pipelines.ledger import update_quarantine
from pipelines.modelling.nomograms import with_nomograms
from pipelines.modelling.outputs import write_study
from pipelines.modelling.signature import CoxLasso
from pipelines.modelling.study import StudyResult
from pipelines.modelling.survival_data import SurvivalData, survival_data
from pipelines.modelling.survival_study import (
    SurvivalPlan,
    SurvivalStudyParameters,
    SurvivalStudyResult,
    run_survival_study,
)
from pipelines.reporting.report import write_report
from pipelines.studies import atrx
from services.preprocessing.contracts import Quality, SequenceQuality
from services.segmentation.contracts import Finding
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Region, Sequence, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidVolume
from services.shared.manifest import run_step
from services.shared.storage import Storage
from services.shared.volume import write_volume
from services.survival_analytics.simulated_patients import simulate_patients

COHORT = "small"
LABELS = [f"case{i:02d}" for i in range(9)]
QUARANTINED = "case08"
FLAGGED = "case05"


def dice_of(index: int) -> float:
    """Dice of a case's regions, rising with its index."""
    return 0.5 + 0.05 * index


@pytest.fixture(scope="session")
def study_result() -> StudyResult:
    rng = np.random.default_rng(3)
    outcome = np.arange(30) % 2
    ids = pd.Index([f"case{i:02d}" for i in range(30)], name="case_id")
    values = rng.normal(size=(30, 12))
    values[:, :3] += 1.5 * outcome[:, None]
    names = [f"T1c_TC_original_glcm_Feature{i}" for i in range(12)]
    labels = pd.Series([atrx.CLASSES[y] for y in outcome], index=ids)
    parameters = atrx.Parameters(folds=3, inner_folds=3, permutations=2, lasso_folds=3, trees=10)
    return atrx.run(pd.DataFrame(values, index=ids, columns=names), labels, parameters=parameters, seed=1)


def fill(storage: Storage, study_result: StudyResult, *, null: bool = False, images: bool, study: bool) -> None:
    if images:
        _write_cohort(storage, null=null)
    if study:
        write_study(storage, COHORT, study_result)


@pytest.fixture
def fill_cohort(study_result: StudyResult) -> Callable[..., None]:
    def apply(storage: Storage, *, null: bool = False, images: bool = True, study: bool = True) -> None:
        fill(storage, study_result, null=null, images=images, study=study)

    return apply


def _write_cohort(storage: Storage, *, null: bool) -> None:
    stated = {"parameters": {"voxel_mm": 3.0}, "seed": 7, "null": null, "effects": {}}
    storage.write_text(f"raw/{COHORT}/phantom.json", json.dumps(stated))
    for index, label in enumerate(["trainer", *LABELS]):
        keys = CaseKeys(CaseRef(cohort=COHORT, id=label))
        storage.write_text(f"{keys.raw}/anat/placeholder.json", "{}")
        if label not in ("trainer", QUARANTINED):
            _write_case(storage, keys, index - 1, flags=["T2w:noisy"] if label == FLAGGED else [])
    ids = [f"sub-{label}" for label in ["trainer", *LABELS]]
    table = pd.DataFrame(
        {"participant_id": ids, "subset": ["segmentation"] + ["study"] * 9, "age_years": range(40, 50)}
    )
    table["sex"] = ["F", "M"] * 5
    table["grade"] = [2, np.nan, *[4] * 8]
    write_participants(storage, COHORT, table)
    problem = InvalidVolume(
        "the volume holds <script>alert(1)</script> values", expected="finite values", got="NaN", remedy="export again"
    ).to_problem()
    outcomes = {CaseRef(cohort=COHORT, id=label): problem if label == QUARANTINED else None for label in LABELS}
    update_quarantine(storage, "prepare", outcomes)


def _write_case(storage: Storage, keys: CaseKeys, index: int, *, flags: list[str]) -> None:
    z, y, x = np.mgrid[:12, :16, :16]
    brain = (z - 6) ** 2 + (y - 8) ** 2 + (x - 8) ** 2 < 36
    tumour = (z - 6) ** 2 + (y - 6) ** 2 + (x - 9) ** 2 < 9
    labels = np.where(tumour, 2, 0).astype(np.uint8)
    labels[6, 6, 8:10] = 4
    grid = {"spacing": (3.0, 3.0, 3.0)}
    for sequence in Sequence:
        pixels = brain * (1.0 + tumour + 0.1 * index + 0.01 * x)
        _write(storage, keys.preprocessed_image(sequence), pixels.astype(np.float32), **grid)
    _write(storage, keys.brain_mask, brain.astype(np.uint8), **grid)
    _write(storage, keys.segmentation, labels, **grid)
    one = SequenceQuality(
        spacing_mm=(1, 1, 1),
        anisotropy=1,
        signal_to_noise=20 - index,
        bias_field_range=1.2,
        nmi_before=None,
        nmi_after=None,
        correlation_before=None,
        correlation_after=None,
        shift_mm=2,
        fraction_clipped=0,
        fraction_seen=1,
    )
    quality = Quality(
        space=keys.space,
        voxel_mm=3,
        skull_stripped=False,
        brain_volume_ml=1500 + index,
        atlas_dice=0.95,
        atlas_nmi=1.1,
        atlas_scale=1,
        sequences={Sequence.T1C: one},
        flags=flags,
    )
    storage.write_text(keys.quality, quality.model_dump_json())
    finding = Finding(
        source="network",
        tumour_found=True,
        volumes_ml=dict.fromkeys(Region, 10.0 + index),
        dice={Region.WT: dice_of(index), Region.TC: dice_of(index), Region.ET: None, Region.ED: dice_of(index)},
        model_sha256="ab" * 32,
    )
    storage.write_text(finding_key(keys), finding.model_dump_json())
    for step, parameters in (("prepare", {"atlas": "icbm152 nilearn 0.12", "voxel_mm": 3.0}), ("extract", {})):
        run_step(
            storage,
            keys.manifest(step),
            step=step,
            step_version="1",
            case=str(keys.case),
            inputs=[],
            parameters=parameters,
            packages=["numpy"],
            compute=list,
        )


def _write(storage: Storage, key: str, array: np.ndarray, *, spacing: tuple[float, float, float]) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    write_volume(storage, key, image)


def page_of(storage: Storage) -> str:
    return Path(write_report(storage, COHORT).url).read_text("utf-8")


@pytest.fixture(scope="session")
def full_page(study_result: StudyResult, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of the whole cohort."""
    storage = Storage(tmp_path_factory.mktemp("workspace"))
    fill(storage, study_result, images=True, study=True)
    return page_of(storage)


@pytest.fixture(name="page_of")
def page_of_fixture() -> Callable[[Storage], str]:
    return page_of


GENES = tuple(f"GENE{i:02d}" for i in range(12))
RELEASE_DROPPED = {"TCGA-XX-1234": "no follow-up", "TCGA-XX-9999": "follow-up of TCGA-XX-9999 is negative"}


def simulated_cohort(count: int, *, seed: int, prefix: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return expression and clinical table of simulated patients; the first three genes carry the hazard."""
    rng = np.random.default_rng(seed)
    people = simulate_patients(count, seed=seed)
    ids = pd.Index([f"{prefix}{i:03d}" for i in range(count)], name="case_id")
    values = rng.normal(size=(count, len(GENES)))
    values[:, 0] += people["signature"]
    values[:, 1] += people["age"].to_numpy() / 13
    values[:, 2] -= people["idh_mutant"]
    clinical = pd.DataFrame(
        {
            "os_months": people["months"].to_numpy(),
            "event": people["died"].to_numpy(),
            "age_years": people["age"].to_numpy(),
            "grade": people["grade"].to_numpy(),
            "idh": np.where(people["idh_mutant"], "Mutant", "WT"),
        },
        index=ids,
    )
    return pd.DataFrame(values, index=ids, columns=list(GENES)), clinical


@pytest.fixture(scope="session")
def survival_result() -> SurvivalStudyResult:
    """A survival study with a validation cohort, nomograms, and tables that a study may add."""
    training = survival_data(*simulated_cohort(90, seed=1, prefix="tcga"), excluded={"tcga007": "scan of tcga007 lost"})
    validation = {"freije": survival_data(*simulated_cohort(50, seed=2, prefix="gsm"))}
    parameters = SurvivalStudyParameters(folds=3, permutations=2, bootstraps=20)
    plan = SurvivalPlan(
        "ferroptosis", "1", "Research: <b>survival</b> by genes.", CoxLasso(), parameters, "z-score of log2 counts"
    )
    result = run_survival_study(plan, training, validation, seed=1)
    result = with_nomograms(result, training, validation, clinical_columns=("age_years", "grade"), seed=1)
    return dataclasses.replace(result, tables=result.tables | _genomic_tables(result, training))


def _genomic_tables(result: SurvivalStudyResult, training: SurvivalData) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    change = rng.normal(size=200)
    p = 10 ** (-3 * np.abs(change))
    names = [f"G{i}" for i in range(200)]
    differential = pd.DataFrame({"gene": names, "log_fold_change": change, "p": p, "fdr": p, "differential": p < 1e-3})
    z = pd.DataFrame(training.values[:, :4], columns=list(GENES[:4])).assign(case_id=training.ids)
    own = result.tables["predictions"].query("part == 'train'")[["case_id", "risk_score", "group"]]
    return {
        "differential": differential,
        "venn": pd.DataFrame({"set": ["candidates", "intersection"], "genes": [12, 4], "names": ["", ""]}),
        "enrichment": pd.DataFrame(
            {
                "collection": ["hallmark", "hallmark"],
                "gene_set": ["HALLMARK_HYPOXIA", "HALLMARK_<APOPTOSIS>"],
                "size": [200, 160],
                "overlap": [5, 2],
                "fold": [4.0, 1.5],
                "p": [1e-4, 0.2],
                "fdr": [1e-3, 0.4],
            }
        ),
        "heat_map": own.merge(z, on="case_id"),
        "table_1": pd.DataFrame(
            {
                "part": ["train", "train"],
                "characteristic": ["grade", "grade"],
                "level": ["3", "4"],
                "all": ["40 (44%)", "50 (56%)"],
                "low": ["30 (60%)", "20 (40%)"],
                "high": ["10 (25%)", "30 (75%)"],
                "missing": [0.0, np.nan],
                "p_value": [1e-5, np.nan],
            }
        ),
    }


def write_tables(storage: Storage, survival_result: SurvivalStudyResult, tables: frozenset[str] | None = None) -> None:
    expression, clinical = simulated_cohort(90, seed=1, prefix="tcga")
    people = clinical.reset_index(names="participant_id").assign(source_id=clinical.index)
    people["participant_id"] = "sub-" + people["participant_id"]
    write_release(
        storage,
        COHORT,
        Release(
            "tcga",
            people,
            matrices={"expression": expression},
            scale={"expression": "z-score of log2 counts"},
            dropped=RELEASE_DROPPED,
            sources={"matrix.csv": "ab" * 32},
            licence="Open access; cite its publisher",
        ),
    )
    kept = survival_result.tables
    if tables is not None:
        kept = {name: table for name, table in kept.items() if name in tables}
    documents = survival_result.documents if tables is None else {}
    write_study(storage, COHORT, dataclasses.replace(survival_result, tables=kept, documents=documents))


@pytest.fixture
def fill_tables(survival_result: SurvivalStudyResult) -> Callable[..., None]:
    """Fill storage with a cohort of tables and its survival study, with all of its tables or some."""

    def apply(storage: Storage, *, tables: frozenset[str] | None = None) -> None:
        write_tables(storage, survival_result, tables)

    return apply


@pytest.fixture(scope="session")
def survival_storage(survival_result: SurvivalStudyResult, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Storage with a cohort of tables, its survival study, and the report of both."""
    storage = Storage(tmp_path_factory.mktemp("tables"))
    write_tables(storage, survival_result)
    write_report(storage, COHORT)
    return storage

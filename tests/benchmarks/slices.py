"""IDH, ATRX and grade from published slices of lower-grade glioma, cross-validated by patient: writes docs/imaging.md.

``--outcome NAME`` (idh, atrx or lower_grade; several times if needed) runs some of them, ``--dry`` writes nothing. Real
input is read from GLIAFLOW_REAL_DATA; what was trained before is not trained again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

from pipelines.datasets.lgg_segmentation import import_lgg_segmentation
from pipelines.flows.imaging_inputs import imaging_patients
from pipelines.parameters import read_value
from pipelines.studies.imaging_outcome import study_folds
from pipelines.training.imaging import cross_validate_imaging
from pipelines.training.imaging_data import ImagingOutcome
from pipelines.training.imaging_figures import imaging_metrics
from pipelines.training.imaging_parameters import ImagingTraining
from services.shared.cohort import participants_key
from services.shared.settings import quiet_libraries, settings
from services.shared.storage import Storage, open_storage
from tests.benchmarks.imaging import PAGE, figure
from tests.benchmarks.page import write_section

COHORT = "lgg-slices"
SOURCE, CLINIC = "kaggle_lgg_mri", "tcga_glioma_clinical"
OUTCOMES = {"idh": "IDH mutant", "atrx": "ATRX mutant", "lower_grade": "WHO grade 3"}
SIDE = 64
LEARNT: dict[str, object] = {
    "folds": 5,
    "width": 16,
    "size": (SIDE, SIDE),
    "epochs": 30,
    "learning_rate": 1e-3,
    "imbalance": "logit_adjustment",
    "tuning_fraction": 0.0,
}


def judge(storage: Storage, outcome: str, seed: int, *, permuted: bool) -> dict[str, float]:
    """Return the figures of patients whom the networks had not seen; with ``permuted``, labels are shuffled first."""
    training = ImagingTraining.model_validate(LEARNT | {"outcome": outcome})
    patients = imaging_patients(storage, COHORT, "slice_classifier", training)
    known = patients.outcome
    if permuted and known.classes is not None:
        known = ImagingOutcome(classes=np.random.default_rng(seed).permutation(known.classes))
    started = time.process_time()
    found = cross_validate_imaging(
        storage,
        patients.cases,
        known,
        study_folds(known, folds=training.fold_count("slice_classifier"), seed=seed),
        spec=patients.spec,
        parameters=training.parameters("slice_classifier"),
        seed=seed,
        model=f"models/imaging/slices/{outcome}{'-permuted' if permuted else ''}",
        threads=settings().workers,
    )
    metrics = imaging_metrics(found)
    spent = time.process_time() - started
    print(f"{outcome}{', permuted' if permuted else ''}: {figure(metrics)}, {spent:.0f} s of CPU", flush=True)
    return metrics


def rows(storage: Storage, outcomes: list[str], seed: int) -> Iterator[str]:
    yield "| outcome | patients (positive) | AUC | sensitivity | specificity | AUC, permuted labels |"
    yield "| --- | ---: | --- | --- | --- | --- |"
    for outcome in outcomes:
        told = judge(storage, outcome, seed, permuted=False)
        free = judge(storage, outcome, seed, permuted=True)
        counts = f"{told['patients']:.0f} ({told['positives']:.0f})"
        cells = " | ".join(figure(told, name) for name in ("auc", "sensitivity", "specificity"))
        yield f"| {OUTCOMES[outcome]} | {counts} | {cells} | {figure(free)} |"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="slices", description="IDH, ATRX and grade from published slices")
    parser.add_argument("--outcome", action="append", choices=list(OUTCOMES), help="only this one")
    parser.add_argument("--dry", action="store_true", help="write no page")
    arguments = parser.parse_args()
    quiet_libraries()
    storage, data = open_storage(), settings().real_data
    if not (data / SOURCE).is_dir():
        sys.exit(f"skipped: no {SOURCE} in the folder that GLIAFLOW_REAL_DATA names")
    if not storage.exists(participants_key(COHORT)):
        import_lgg_segmentation(storage, data / SOURCE, COHORT, participants=data / CLINIC)
    seed = read_value(None, "seed", default=0)
    conditions = (
        f"ResNet-18 of width {LEARNT['width']} on the rectangle of the FLAIR abnormality in its largest slice (T1, "
        f"FLAIR, T1c; {SIDE} pixels wide), random weights, {LEARNT['epochs']} epochs, rare classes by adjusted logits, "
        f"{LEARNT['folds']} folds by patient, seed {seed}; nothing was tuned on these patients."
    )
    lines = [conditions, "", *rows(storage, arguments.outcome or list(OUTCOMES), seed)]
    print("\n".join(lines))
    if not arguments.dry:
        write_section(PAGE, "slices", lines)


if __name__ == "__main__":
    main()

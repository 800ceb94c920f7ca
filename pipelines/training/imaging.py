"""Train imaging networks: cross-validated by patient in the study's own folds, then one network of all patients.

The networks are those of Front Neurosci 2022, 1082867 (risk group), Front Oncol 2022, 969907 (grade; grade and
survival), EBioMedicine 2021, 103583 (survival from diffusion maps), and a slice classifier. No patient of a fold's
validation part decides anything in it: the tuning patients who choose the epoch are of its training part.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from pipelines.modelling.validation import derive_seed
from pipelines.training.imaging_data import (
    STEP,
    ImagingOutcome,
    InputStore,
    Rows,
    check_outcome,
)
from pipelines.training.imaging_figures import imaging_metrics
from pipelines.training.imaging_fit import (
    ImagingEpoch,
    Report,
    fit_network,
    network_state,
    pool_cases,
    predict_cases,
)
from pipelines.training.imaging_parameters import PAPER_PARAMETERS, ImagingTrainParameters
from pipelines.training.live import live_figures
from pipelines.training.processes import is_first_process, wait_for_all
from services.model_serving.deep_features import statistics_key
from services.model_serving.imaging import THRESHOLD
from services.model_serving.networks.specification import ImagingSpec
from services.shared.contracts import CaseRef, Contract, Key
from services.shared.device import choose_device, torch_threads
from services.shared.errors import IdMismatch
from services.shared.manifest import Manifest, run_step
from services.shared.storage import Storage
from services.shared.trained_network import card_key, read_card, save_network, weights_key

VERSION = "2"
_PACKAGES = ("SimpleITK", "lightning", "monai", "numpy", "torch")

Progress = Callable[[int, int, str], None]

__all__ = [
    "PAPER_PARAMETERS",
    "ImagingOutcome",
    "ImagingTrainParameters",
    "ImagingTrainResult",
    "cross_validate_imaging",
    "train_imaging",
]


class ImagingTrainResult(Contract):
    """What came of a training. Figures are of patients whom the judged networks had not seen."""

    model: Key
    cached: bool
    cases: int
    best_epoch: int
    metrics: dict[str, float] = Field(description="See imaging_metrics; empty without folds")
    notes: tuple[str, ...]
    weights_sha256: str
    device: str
    seconds: float


def train_imaging(
    storage: Storage,
    cases: ListOf[CaseRef],
    outcome: ImagingOutcome,
    *,
    spec: ImagingSpec,
    parameters: ImagingTrainParameters,
    seed: int,
    model: str,
    folds: npt.NDArray[np.int64] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
    live: Path | None = None,
) -> ImagingTrainResult:
    """Train a network on all patients and write it below ``model``; do nothing where it is up to date.

    Parameters
    ----------
    cases, outcome
        Patients, and what is known of each in the same order.
    seed
        Decides tuning patients, first weights, order and mirroring. On a processor the same seed, cases and number of
        threads give the same weights, whether or not the training was interrupted.
    folds
        Fold of each patient, for a cross-validation before; none without.
    threads
        Processor cores.
    progress
        Called after each epoch with trainings begun, trainings in all, and what is being done.
    live
        Folder that DVCLive writes each epoch's losses to while the training runs.

    Raises
    ------
    DuplicateId, InvalidTable, OneClass, TooFewCases
        Where the patients cannot be learnt from.
    MissingSequence, NotFound, InvalidMask, InvalidVolume, SpaceMismatch, UnreadableFile
        Where a case cannot be used; the error names it.
    InvalidValue
        Where the loss stops being finite, or memory does not hold two patients.
    """
    check_outcome(outcome, cases, spec.task)
    predictions = None
    trainings = 1 if folds is None else len(np.unique(folds)) + 1
    if folds is not None:
        predictions = cross_validate_imaging(
            storage,
            cases,
            outcome,
            folds,
            spec=spec,
            parameters=parameters,
            seed=seed,
            model=model,
            threads=threads,
            progress=progress,
            live=live,
        )
    job = _Job(
        storage,
        spec,
        parameters,
        threads,
        _reporter(progress, trainings - 1, trainings, "final"),
        live,
        "final",
        derive_seed(seed, 2),
    )
    everybody = np.arange(len(cases))
    manifest, cached = _train(job, model, cases, outcome, everybody, np.array([], np.int64), derive_seed(seed, 0))
    metrics = {} if predictions is None else imaging_metrics(predictions)
    if predictions is not None and is_first_process():
        storage.write_text(f"{model}/cross_validation.csv", _csv(predictions))
        storage.write_text(f"{model}/metrics.json", json.dumps(metrics, indent=2) + "\n")
    card = read_card(storage, model, ImagingSpec)
    notes = tuple(str(card.training[name]) for name in sorted(card.training) if name.startswith("note"))
    return ImagingTrainResult(
        model=model,
        cached=cached,
        cases=len(cases),
        best_epoch=int(card.training["best_epoch"]),
        metrics=metrics,
        notes=notes,
        weights_sha256=card.weights_sha256,
        device=manifest.device,
        seconds=manifest.seconds,
    )


def cross_validate_imaging(
    storage: Storage,
    cases: ListOf[CaseRef],
    outcome: ImagingOutcome,
    folds: npt.NDArray[np.int64],
    *,
    spec: ImagingSpec,
    parameters: ImagingTrainParameters,
    seed: int,
    model: str,
    threads: int = 1,
    progress: Progress | None = None,
    live: Path | None = None,
) -> pd.DataFrame:
    """Return what networks say of patients that they had not seen, one row a patient.

    Parameters
    ----------
    folds
        Fold of each patient, shape (patients,).

    Returns
    -------
    pandas.DataFrame
        ``case_id``, ``fold``; ``outcome``, ``probability``, ``threshold`` where the network says a class;
        ``months``, ``event``, ``risk_score`` where it says a risk: less the mean of its training patients, so that
        folds compare.

    Raises
    ------
    IdMismatch
        Where there is not one fold for each patient.
    GliaflowError
        See :func:`train_imaging`.
    """
    check_outcome(outcome, cases, spec.task)
    if folds.shape != (len(cases),) or len(np.unique(folds)) < 2:
        raise IdMismatch(
            "there is not one fold for each patient",
            step=STEP,
            field="folds",
            expected=f"{len(cases)} numbers, two folds at least",
            got=f"{folds.shape}, {len(np.unique(folds))} folds",
        )
    numbers = np.unique(folds)
    parts = []
    for place, fold in enumerate(numbers.tolist()):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        check_outcome(outcome.take(train), [cases[int(row)] for row in train], spec.task)
        report = _reporter(progress, place, len(numbers) + 1, f"fold {place + 1} of {len(numbers)}")
        job = _Job(storage, spec, parameters, threads, report, live, f"fold_{fold}", derive_seed(seed, 2))
        folder = f"{model}/folds/{fold}"
        _train(job, folder, cases, outcome, train, test, derive_seed(seed, 1, fold))
        with storage.local(f"{folder}/predictions.csv") as path:
            parts.append(pd.read_csv(path, dtype={"case_id": str}).assign(fold=fold))
    found = pd.concat(parts, ignore_index=True)
    order = {case.id: place for place, case in enumerate(cases)}
    found = found.iloc[np.argsort([order[i] for i in found["case_id"]], kind="stable")].reset_index(drop=True)
    return found[["case_id", "fold", *(name for name in found if name not in ("case_id", "fold"))]]


@dataclass(frozen=True)
class _Job:
    """What all trainings of a run share."""

    storage: Storage
    spec: ImagingSpec
    parameters: ImagingTrainParameters
    threads: int
    report: Report
    live: Path | None
    name: str
    start_seed: int
    """Seed of the first weights, the same in all folds: networks that start alike keep their features alike."""


def _train(
    job: _Job,
    folder: str,
    cases: ListOf[CaseRef],
    outcome: ImagingOutcome,
    train: Rows,
    test: Rows,
    seed: int,
) -> tuple[Manifest, bool]:
    """Train on some patients and write the network, its course, and what it says of the others."""
    storage, store = job.storage, InputStore(job.storage, job.spec)
    learnt = [cases[row] for row in train]
    held = [cases[row] for row in test]
    store.fill([*learnt, *held])

    def compute() -> list[str]:
        with torch_threads(job.threads), live_figures(job.live and job.live / job.name) as log:

            def report(epoch: ImagingEpoch) -> None:
                losses = {"training_loss": epoch.training_loss, "tuning_loss": epoch.tuning_loss}
                log(epoch.epoch, {name: value for name, value in losses.items() if value is not None})
                job.report(epoch)

            fit = fit_network(
                store,
                learnt,
                outcome.take(train),
                parameters=job.parameters,
                seed=seed,
                folder=folder,
                start_seed=job.start_seed,
                report=report,
            )
            training: dict[str, float | int | str] = {
                "cases": len(learnt),
                "epochs": len(fit.history),
                "best_epoch": fit.best_epoch,
                "batch": fit.batch,
                "seed": seed,
                "start": _start_of(job),
                "imbalance": job.parameters.imbalance,
            }
            training |= {f"note_{number}": note for number, note in enumerate(fit.notes, start=1)}
            _, risk = predict_cases(fit.network, store, learnt, batch=fit.batch)
            if job.spec.task != "survival":
                training["threshold"] = THRESHOLD
            if risk is not None:
                training["risk_mean"] = float(risk.mean())
            pooled = pool_cases(fit.network, store, learnt, batch=fit.batch)
            outputs = [card_key(folder), weights_key(folder), f"{folder}/training.csv", statistics_key(folder)]
            said = predict_cases(fit.network, store, held, batch=fit.batch) if held else (None, None)
            if held:
                outputs.append(f"{folder}/predictions.csv")
            if is_first_process():
                course = pd.DataFrame([row.model_dump() for row in fit.history])
                save_network(storage, folder, job.spec, network_state(fit), training=training)
                storage.write_text(f"{folder}/training.csv", _csv(course))
                storage.write_bytes(statistics_key(folder), _statistics(pooled))
                if held:
                    mean = float(training.get("risk_mean", 0.0))
                    storage.write_text(f"{folder}/predictions.csv", _csv(_rows(held, outcome.take(test), *said, mean)))
            wait_for_all()
        return outputs

    return run_step(
        storage,
        f"{folder}/manifest.json",
        step=STEP,
        step_version=VERSION,
        case=None,
        inputs=sorted({store.key(case) for case in (*learnt, *held)}),
        parameters={
            "spec": job.spec.model_dump(mode="json"),
            "parameters": job.parameters.model_dump(mode="json"),
            "seed": seed,
            "cases": [str(case) for case in learnt],
            "held_out": [str(case) for case in held],
            "outcome": outcome.take(train).describe(),
            "outcome_held_out": outcome.take(test).describe(),
            "start_seed": job.start_seed,
            "tuning": None,  # as every trained network's manifest says: without it they would seem stale
            "start_sha256": storage.sha256(job.parameters.start) if job.parameters.start else None,
        },
        packages=_PACKAGES,
        compute=compute,
        device=str(choose_device()),
    )


def _start_of(job: _Job) -> str:
    """Return what a training starts from: ``random, seed <n>``, or ``imagenet <sha256>`` and the like."""
    parameters = job.parameters
    if parameters.start is None:
        return f"random, seed {job.start_seed}"
    return f"{parameters.start_kind} {job.storage.sha256(parameters.start)}"


def _rows(
    cases: ListOf[CaseRef],
    outcome: ImagingOutcome,
    chance: npt.NDArray[np.float64] | None,
    risk: npt.NDArray[np.float64] | None,
    mean: float,
) -> pd.DataFrame:
    columns: dict[str, object] = {"case_id": [case.id for case in cases]}
    if chance is not None:
        columns |= {"outcome": outcome.classes, "probability": chance, "threshold": THRESHOLD}
    if risk is not None:
        columns |= {"months": outcome.months, "event": outcome.event, "risk_score": risk - mean}
    return pd.DataFrame(columns)


def _statistics(pooled: npt.NDArray[np.float64]) -> bytes:
    """Return mean and scale of each pooled feature as a file; a feature that is the same in all has scale 1."""
    spread = pooled.std(axis=0)
    scale = np.where(spread > np.abs(pooled).max(axis=0) * 1e-6, spread, 1.0)
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, mean=pooled.mean(axis=0).astype(np.float32), scale=scale.astype(np.float32))
    return content.getvalue()


def _csv(table: pd.DataFrame) -> str:
    text: str = table.to_csv(index=False, float_format="%.10g", lineterminator="\n")
    return text


def _reporter(progress: Progress | None, number: int, total: int, name: str) -> Report:
    def report(epoch: ImagingEpoch) -> None:
        if progress is not None:
            tuning = "" if epoch.tuning_loss is None else f", tuning {epoch.tuning_loss:.3f}"
            progress(number, total, f"{name}, epoch {epoch.epoch}: loss {epoch.training_loss:.3f}{tuning}")

    return report

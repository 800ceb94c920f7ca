"""A model package: a folder with ``package.json`` (what the model is) and ``arrays.npz`` (its fitted numbers).

A package is data, never code: nothing in it is unpickled, and its arrays must have the hash that its description
states. The same model gives the same bytes. ``training_cases.txt``, where there is one, holds a hash of each training
patient's label, so that a later comparison of versions can leave out patients that one of them learnt from.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StringConstraints, ValidationError, model_validator

from services.shared.contracts import Contract
from services.shared.errors import ChangedFile, NotFound, UnreadableFile
from services.shared.storage import Storage

SCHEMA_VERSION = 1
DESCRIPTION = "package.json"
ARRAYS = "arrays.npz"
TRAINING_CASES = "training_cases.txt"

Array = npt.NDArray[np.float64]
Kind = Literal["logistic", "svm_rbf", "cox"]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=64)]


@dataclass(frozen=True)
class LogisticClassifier:
    """Logistic regression on z-scores: log-odds = intercept + coefficients · z.

    Parameters
    ----------
    coefficients
        Shape (features,).
    intercept
        Log-odds at the training means.
    """

    coefficients: Array
    intercept: float

    kind = "logistic"

    def arrays(self) -> dict[str, Array]:
        """Return the fitted numbers by name."""
        return {"coefficients": self.coefficients, "intercept": np.array([self.intercept])}


@dataclass(frozen=True)
class SvmClassifier:
    """Support vector machine with radial kernel on z-scores, calibrated by Platt's sigmoid.

    Decision value f(z) = intercept + Σᵢ dualᵢ · exp(−γ‖z − svᵢ‖²); log-odds = platt_slope · f(z) + platt_intercept.

    Parameters
    ----------
    support_vectors, dual_coefficients
        Shapes (vectors, features) and (vectors,).
    """

    support_vectors: Array
    dual_coefficients: Array
    intercept: float
    gamma: float
    platt_slope: float
    platt_intercept: float

    kind = "svm_rbf"

    def arrays(self) -> dict[str, Array]:
        """Return the fitted numbers by name."""
        scalars = ("intercept", "gamma", "platt_slope", "platt_intercept")
        return {
            "support_vectors": self.support_vectors,
            "dual_coefficients": self.dual_coefficients,
            **{name: np.array([getattr(self, name)], dtype=np.float64) for name in scalars},
        }


@dataclass(frozen=True)
class CoxSignature:
    """Cox model on z-scores: risk score = coefficients · z, the log hazard relative to the training means.

    Survival S(t | score) = S₀(t) ^ exp(score), with S₀ that of a patient at the training means.

    Parameters
    ----------
    coefficients
        Shape (features,).
    times_months, baseline_survival
        Shape (k,): ascending times, and S₀ from each of them up to the next; it is 1 before the first.
    """

    coefficients: Array
    times_months: Array
    baseline_survival: Array

    kind = "cox"

    def arrays(self) -> dict[str, Array]:
        """Return the fitted numbers by name."""
        names = ("coefficients", "times_months", "baseline_survival")
        return {name: getattr(self, name) for name in names}


Classifier = LogisticClassifier | SvmClassifier | CoxSignature


@dataclass(frozen=True)
class FittedModel:
    """What turns raw features into a probability of the positive class, or into a risk score.

    Parameters
    ----------
    columns
        Features in the order of every array.
    medians, means, scales
        Shape (features,): training median (stands in for a missing value), mean and standard deviation.
    classifier
        Works on z-scores.
    threshold
        A patient is positive from this probability on; of a Cox signature, at high risk from this score on.
    """

    columns: tuple[str, ...]
    medians: Array
    means: Array
    scales: Array
    classifier: Classifier
    threshold: float


class Estimate(Contract):
    """A figure with its 95 % confidence interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


class TrainingData(Contract):
    """Which data the model learnt from. The hashes are of canonical tables sorted by patient and column."""

    cohort: str | None = None
    patients: int = Field(ge=1)
    patients_by_class: dict[str, int]
    features_sha256: Sha256
    labels_sha256: Sha256


class PackageDescription(Contract):
    """Everything about a model that is not an array; the content of ``package.json``."""

    schema_version: Literal[1] = 1
    study: ModelName
    kind: Kind
    columns: tuple[str, ...] = Field(min_length=1, description="Features in the order of every array")
    medians: tuple[float, ...] = Field(description="Training medians, which stand in for missing values")
    means: tuple[float, ...] = Field(description="Training means")
    scales: tuple[Annotated[float, Field(gt=0)], ...] = Field(description="Training standard deviations")
    classes: tuple[str, str] = Field(description="Negative and positive class; low and high risk of a Cox signature")
    threshold: float = Field(description="A patient is positive from this probability (Cox: risk score) on")
    platform: str | None = Field(None, description="What a value was, such as log2(FPKM + 1)")
    intended_use: str
    metrics: dict[str, Estimate] = Field(description="Out-of-fold performance of the procedure that made this model")
    training: TrainingData
    code_version: str
    packages: dict[str, str]
    arrays_sha256: Sha256

    @property
    def positive_label(self) -> str:
        """The class whose probability the model states."""
        return self.classes[1]

    @model_validator(mode="after")
    def _check_lengths(self) -> PackageDescription:
        lengths = {len(self.columns), len(self.medians), len(self.means), len(self.scales)}
        if len(lengths) != 1 or len(set(self.columns)) != len(self.columns):
            raise ValueError("columns must be unique, with one median, mean and scale each")
        return self


@dataclass(frozen=True)
class Package:
    """A model with its description and the SHA-256 of the description, which covers the arrays."""

    description: PackageDescription
    model: FittedModel
    sha256: str


@dataclass(frozen=True)
class ModelCard:
    """What the maker of a model says about it."""

    study: str
    classes: tuple[str, str]
    intended_use: str
    metrics: dict[str, Estimate]
    training: TrainingData
    code_version: str
    packages: dict[str, str]
    platform: str | None = None


def pack(model: FittedModel, card: ModelCard) -> dict[str, bytes]:
    """Return the files of a package by name."""
    arrays = _pack_arrays(model.classifier.arrays())
    description = PackageDescription(
        study=card.study,
        kind=model.classifier.kind,
        columns=model.columns,
        medians=tuple(model.medians.tolist()),
        means=tuple(model.means.tolist()),
        scales=tuple(model.scales.tolist()),
        classes=card.classes,
        threshold=model.threshold,
        platform=card.platform,
        intended_use=card.intended_use,
        metrics=card.metrics,
        training=card.training,
        code_version=card.code_version,
        packages=card.packages,
        arrays_sha256=hashlib.sha256(arrays).hexdigest(),
    )
    return {DESCRIPTION: (description.model_dump_json(indent=2) + "\n").encode(), ARRAYS: arrays}


def unpack(files: dict[str, bytes], *, name: str) -> Package:
    """Return the package that files hold; ``name`` says in errors which package it is.

    Raises
    ------
    UnreadableFile
        Where the description or the arrays are not those of a package.
    ChangedFile
        Where the arrays do not have the hash that the description states.
    """
    try:
        description = PackageDescription.model_validate_json(files[DESCRIPTION])
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise UnreadableFile(
            "the model's description cannot be read",
            field=f"{name}/{DESCRIPTION}",
            expected=f"a model package of schema version {SCHEMA_VERSION}",
            got=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            remedy="run the study again",
        ) from None
    found = hashlib.sha256(files[ARRAYS]).hexdigest()
    if found != description.arrays_sha256:
        raise ChangedFile(
            "the model's arrays are not those that its description states",
            field=f"{name}/{ARRAYS}",
            expected=description.arrays_sha256,
            got=found,
            remedy="register the model again",
        )
    model = FittedModel(
        columns=description.columns,
        medians=np.array(description.medians, dtype=np.float64),
        means=np.array(description.means, dtype=np.float64),
        scales=np.array(description.scales, dtype=np.float64),
        classifier=_unpack_classifier(description, files[ARRAYS], name),
        threshold=description.threshold,
    )
    return Package(description, model, hashlib.sha256(files[DESCRIPTION]).hexdigest())


def write_package(storage: Storage, folder: str, files: dict[str, bytes]) -> list[str]:
    """Write a package's files; the description comes last, so that it means a whole package. Return their keys."""
    keys = []
    for name in (*sorted(set(files) - {DESCRIPTION}), DESCRIPTION):
        storage.write_bytes(f"{folder}/{name}", files[name])
        keys.append(f"{folder}/{name}")
    return keys


def read_files(storage: Storage, folder: str) -> dict[str, bytes]:
    """Return a package's files as they stand in storage.

    Raises
    ------
    NotFound
        Where the folder holds no whole package.
    """
    missing = [name for name in (DESCRIPTION, ARRAYS) if not storage.exists(f"{folder}/{name}")]
    if missing:
        raise NotFound(
            "there is no model package",
            field="folder",
            expected=f"{DESCRIPTION} and {ARRAYS}",
            got=f"{folder} without {', '.join(missing)}",
            remedy="run 'gliaflow study' first",
        )
    known = storage.exists(f"{folder}/{TRAINING_CASES}")
    names = (DESCRIPTION, ARRAYS, TRAINING_CASES) if known else (DESCRIPTION, ARRAYS)
    return {name: storage.read_bytes(f"{folder}/{name}") for name in names}


def case_hash(case_id: str) -> str:
    """Return what stands for a training patient beside a package, in place of the label."""
    return hashlib.sha256(f"training case\n{case_id}".encode()).hexdigest()[:20]


def list_training_cases(case_ids: Iterable[str]) -> bytes:
    """Return the content of ``training_cases.txt``: the patients' hashes, sorted, one a line."""
    return "".join(f"{each}\n" for each in sorted(map(case_hash, case_ids))).encode()


def read_training_cases(storage: Storage, folder: str) -> frozenset[str] | None:
    """Return the hashes of a package's training patients, or None where nobody wrote them down."""
    key = f"{folder}/{TRAINING_CASES}"
    return frozenset(storage.read_text(key).split()) if storage.exists(key) else None


def read_package(storage: Storage, folder: str) -> Package:
    """Return the package in a folder, checked.

    Raises
    ------
    NotFound, UnreadableFile, ChangedFile
        Where it is not there, malformed, or not what its description states.
    """
    return unpack(read_files(storage, folder), name=folder)


def _pack_arrays(arrays: dict[str, Array]) -> bytes:
    """Return an .npz without time stamps, so that equal arrays are equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return content.getvalue()


def _unpack_classifier(description: PackageDescription, content: bytes, name: str) -> Classifier:
    features = len(description.columns)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {key: np.asarray(archive[key], dtype=np.float64) for key in archive.files}
        if not all(np.isfinite(values).all() for values in arrays.values()):
            raise ValueError("a value is not finite")
        if description.kind == "logistic":
            return LogisticClassifier(arrays["coefficients"].reshape(features), arrays["intercept"].item())
        if description.kind == "cox":
            return _unpack_cox(arrays, features)
        vectors = arrays["support_vectors"]
        return SvmClassifier(
            vectors.reshape(-1, features),
            arrays["dual_coefficients"].reshape(len(vectors)),
            *(arrays[key].item() for key in ("intercept", "gamma", "platt_slope", "platt_intercept")),
        )
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise UnreadableFile(
            "the model's arrays cannot be read",
            field=f"{name}/{ARRAYS}",
            expected=f"the arrays of a {description.kind} model with {features} features",
            got=str(error),
            remedy="run the study again",
        ) from error


def _unpack_cox(arrays: dict[str, Array], features: int) -> CoxSignature:
    times, survival = arrays["times_months"], arrays["baseline_survival"]
    if times.ndim != 1 or times.size == 0 or times[0] <= 0 or (np.diff(times) <= 0).any():
        raise ValueError("the times do not ascend from above 0")
    if survival.shape != times.shape or (np.diff(survival) > 0).any() or survival[0] > 1 or survival[-1] < 0:
        raise ValueError("the baseline survival does not fall from 1 to 0 at most")
    return CoxSignature(arrays["coefficients"].reshape(features), times, survival)

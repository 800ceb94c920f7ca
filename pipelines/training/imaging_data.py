"""Patients that an imaging network learns from: their outcomes, their inputs made once and read batch by batch."""

from __future__ import annotations

import io
from collections.abc import Callable
from collections.abc import Sequence as ListOf
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pipelines.training.losses import MISSING
from services.model_serving.case_input import check_input, input_keys, read_input
from services.model_serving.networks.specification import ImagingSpec, Task
from services.shared.cohort import CaseKeys
from services.shared.contracts import CaseRef
from services.shared.errors import DuplicateId, GliaflowError, InvalidTable, OneClass, TooFewCases
from services.shared.manifest import fingerprint, package_versions
from services.shared.storage import Storage

STEP = "train imaging"
INPUT_VERSION = "1"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImagingOutcome:
    """What is known of patients, in the order of their cases.

    Parameters
    ----------
    classes
        0 or 1, -1 where not known, shape (patients,); None where the network says no class.
    months, event
        Follow-up and 1 for a death, shape (patients,); None where the network says no risk.
    """

    classes: npt.NDArray[np.int64] | None = None
    months: npt.NDArray[np.float64] | None = None
    event: npt.NDArray[np.int64] | None = None

    def take(self, rows: Rows) -> ImagingOutcome:
        """Return the outcome of some patients."""
        return ImagingOutcome(
            None if self.classes is None else self.classes[rows],
            None if self.months is None else self.months[rows],
            None if self.event is None else self.event[rows],
        )

    @property
    def strata(self) -> npt.NDArray[np.int64]:
        """What a split keeps in proportion: classes, events, or both; a number for each patient."""
        if self.classes is None and self.event is None:
            raise InvalidTable("there is no outcome", step=STEP, expected="classes, or months and event")
        found = np.zeros(len(self), dtype=np.int64)
        for part in (self.classes, self.event):
            if part is not None:
                found = 3 * found + part + 1
        return found

    def __len__(self) -> int:
        part = self.classes if self.classes is not None else self.event
        return 0 if part is None else len(part)

    def describe(self) -> dict[str, object]:
        """Return the outcome as plain lists, for a fingerprint."""
        return {
            name: None if part is None else part.tolist()
            for name, part in (("classes", self.classes), ("months", self.months), ("event", self.event))
        }


def check_outcome(outcome: ImagingOutcome, cases: ListOf[CaseRef], task: Task) -> None:
    """Check that a network can learn from an outcome.

    Raises
    ------
    DuplicateId
        Where a patient is named twice.
    InvalidTable
        Where what the network is to say is not given, or not for each patient.
    OneClass, TooFewCases
        Where patients are all of one class, or nobody died.
    """
    names = [str(case) for case in cases]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DuplicateId("a case is named twice", step=STEP, expected="each case once", got=", ".join(repeated[:5]))
    wanted = {"classes": task != "survival", "months": task != "classes", "event": task != "classes"}
    for name, needed in wanted.items():
        part = getattr(outcome, name)
        if needed and (part is None or part.shape != (len(cases),)):
            raise InvalidTable(
                "the outcome does not fit the network and its patients",
                step=STEP,
                field=name,
                expected=f"{len(cases)} values",
                got="none" if part is None else f"{len(part)}",
            )
    if task != "survival" and outcome.classes is not None:
        if not np.isin(outcome.classes, (0, 1, MISSING)).all():
            raise InvalidTable("a class is neither 0, 1 nor missing (-1)", step=STEP, field="classes")
        counts = [int((outcome.classes == value).sum()) for value in (0, 1)]
        if min(counts) == 0:
            raise OneClass(
                "all patients to learn from are of one class",
                step=STEP,
                field="classes",
                expected="patients of both",
                got=f"{counts[0]} and {counts[1]}",
            )
    if task != "classes" and outcome.event is not None and outcome.months is not None:
        if not (
            np.isfinite(outcome.months).all() and (outcome.months > 0).all() and np.isin(outcome.event, (0, 1)).all()
        ):
            raise InvalidTable(
                "follow-up is not positive, or an event neither 0 nor 1", step=STEP, field="months, event"
            )
        if outcome.event.sum() < 2:
            raise TooFewCases(
                "too few deaths to learn from", step=STEP, field="event", expected="at least 2", got=outcome.event.sum()
            )


@dataclass
class InputStore:
    """Inputs of cases as a network sees them, each made once and kept under the hash of what it is made of.

    Memory holds one batch: inputs are read from storage when they are asked for.
    """

    storage: Storage
    spec: ImagingSpec
    _keys: dict[str, str] = field(default_factory=dict)

    def key(self, case: CaseRef) -> str:
        """Return where a case's input lies; it is made where it does not."""
        if str(case) not in self._keys:
            self._keys[str(case)] = self._fill(case)
        return self._keys[str(case)]

    def _fill(self, case: CaseRef) -> str:
        sources = sorted(input_keys(self.storage, case, self.spec).items())
        seen = self.spec.model_dump(mode="json", exclude={"architecture", "width", "excitation", "classes"})
        made_of = [(name, self.storage.sha256(key)) for name, key in sources]
        name = fingerprint("input", INPUT_VERSION, seen, made_of, package_versions("SimpleITK", "numpy"))[:24]
        key = f"derivatives/inputs/{case.cohort}/{CaseKeys(case).subject}/{name}.npz"
        if not self.storage.exists(key):
            content = io.BytesIO()
            np.savez(content, allow_pickle=False, values=read_input(self.storage, case, self.spec).values)
            self.storage.write_bytes(key, content.getvalue())
        return key

    def fill(self, cases: ListOf[CaseRef], done: Callable[[], None] = lambda: None) -> None:
        """Make the inputs of cases; an error names its case."""
        for case in cases:
            try:
                self.key(case)
            except GliaflowError as error:
                raise error.with_context(case=str(case), step=STEP) from None
            done()

    def read(self, cases: ListOf[CaseRef]) -> torch.Tensor:
        """Return the inputs of some cases, (cases, channels, …)."""
        found = []
        for case in cases:
            with np.load(io.BytesIO(self.storage.read_bytes(self.key(case))), allow_pickle=False) as file:
                values = file["values"]
            check_input(self.spec, values)
            found.append(values)
        return torch.from_numpy(np.stack(found))


def usable_cases(
    storage: Storage, cases: ListOf[CaseRef], spec: ImagingSpec
) -> tuple[tuple[CaseRef, ...], dict[str, str]]:
    """Return the cases that a network can see, in their order, and the reason by case why others are left out.

    Left out are cases without an image or mask, with one that cannot be used, and without a tumour of the region.
    """
    store, usable, left_out = InputStore(storage, spec), [], {}
    for case in cases:
        try:
            store.key(case)
        except GliaflowError as error:
            left_out[str(case)] = error.detail
        else:
            usable.append(case)
    return tuple(usable), left_out


def split_tuning(strata: npt.NDArray[np.int64], *, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to learn from and to tune on, in the same proportion of each stratum; sorted.

    Of each stratum with two patients or more at least one tunes; without ``fraction`` nobody does.
    """
    if fraction == 0:
        return np.arange(len(strata)), np.array([], dtype=np.int64)
    rng = np.random.default_rng(seed)
    tune: list[int] = []
    for value in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == value))
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        tune += members[:count].tolist()
    chosen = np.array(sorted(tune), dtype=np.int64)
    return np.setdiff1d(np.arange(len(strata)), chosen), chosen


def order_batches(strata: npt.NDArray[np.int64], *, batch: int, balanced: bool, seed: tuple[int, ...]) -> list[Rows]:
    """Return one epoch's batches, in an order that depends on the seed alone.

    Parameters
    ----------
    strata
        Class or event of each patient to learn from.
    batch
        Patients of a batch. A rest of one patient joins the batch before it: batch normalisation needs two.
    balanced
        Whether patients are drawn with replacement, classes alike often; else each comes once, strata spread evenly.
    """
    rng = np.random.default_rng(seed)
    if balanced:
        values, place = np.unique(strata, return_inverse=True)
        share = 1.0 / (len(values) * np.bincount(place))[place]
        order = rng.choice(len(strata), size=len(strata), p=share / share.sum())
    else:
        # Each stratum is spread evenly over the epoch, from a random start, so that batches are alike.
        position = np.empty(len(strata))
        for value in np.unique(strata):
            members = rng.permutation(np.flatnonzero(strata == value))
            position[members] = (np.arange(len(members)) + rng.random()) / len(members)
        order = np.argsort(position, kind="stable")
    parts = [order[i : i + batch] for i in range(0, len(order), batch)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return [np.asarray(part, dtype=np.int64) for part in parts]


def flip_at_random(inputs: torch.Tensor, *, seeds: ListOf[tuple[int, ...]]) -> torch.Tensor:
    """Return inputs (batch, channels, …), each mirrored along each axis or not, as its own seed decides."""
    found = inputs.clone()
    for row, seed in enumerate(seeds):
        axes = [axis + 1 for axis in np.flatnonzero(np.random.default_rng(seed).random(inputs.ndim - 2) < 0.5).tolist()]
        if axes:
            found[row] = inputs[row].flip(axes)
    return found

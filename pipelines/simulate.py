"""The phantom cohort: synthetic glioma patients whose effects are planted and known, deterministic by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import as_completed

import numpy as np
import pandas as pd
import SimpleITK as sitk
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.datasets.release import Release, write_statement
from pipelines.phantom.anatomy import draw_subject
from pipelines.phantom.clinic import Patient, draw_patient, participant_label
from pipelines.phantom.effects import EFFECTS, Stream, random_stream
from pipelines.phantom.expression import draw_expression
from pipelines.phantom.scanner import acquire, acquire_diffusion, plan_acquisitions, tissue_signals
from pipelines.phantom.tumour import draw_tumour_plan, place_tumour
from pipelines.workers import start_workers
from services.shared.cohort import CaseKeys, Cohort, Sequence, read_cohort, write_participants
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidValue, NotFound
from services.shared.settings import settings
from services.shared.storage import Storage
from services.shared.volume import itk_threads, write_volume

STEP = "simulate"
Progress = Callable[[int, int], None]


class SimulateParameters(BaseModel):
    """How large a phantom cohort is.

    Parameters
    ----------
    cases
        Patients of the studies (subset ``study``).
    segmentation_cases
        Patients that only train the segmentation network (subset ``segmentation``); they come first.
    voxel_mm
        Voxel size of the T1c, mm; the other sequences differ from it by their scanner's factors.
    workers
        Processes to use, by default as many as the settings allow. It changes no byte of the result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    cases: int = Field(40, ge=1, le=5000)
    segmentation_cases: int = Field(12, ge=0, le=4999)
    voxel_mm: float = Field(3.0, ge=1.0, le=6.0)
    workers: int = Field(default_factory=lambda: settings().workers, ge=1)

    @property
    def total(self) -> int:
        """Patients of both subsets."""
        return self.cases + self.segmentation_cases


def check_parameters(**values: object) -> SimulateParameters:
    """Return parameters made of plain values.

    Raises
    ------
    InvalidValue
        Naming the first field that is not allowed.
    """
    try:
        return SimulateParameters.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InvalidValue(
            "a parameter of the phantom is not allowed",
            step=STEP,
            field=name,
            expected=first["msg"],
            got=repr(values.get(name)),
        ) from None


def phantom_key(cohort: str) -> str:
    """Key of the file that states how a phantom cohort was made."""
    return f"raw/{cohort}/phantom.json"


def simulate_cohort(
    storage: Storage,
    name: str,
    *,
    parameters: SimulateParameters,
    seed: int,
    null: bool = False,
    progress: Progress | None = None,
) -> Cohort:
    """Write a phantom cohort and return it.

    Case ``i`` depends on the seed, ``i``, the voxel size and ``null`` alone, never on the number of cases. An earlier
    phantom of this name is replaced. With ``null`` the images are the same bytes and every label, survival time and
    gene is drawn free of them.

    Parameters
    ----------
    progress
        Called with cases done and cases in all, after each case.

    Raises
    ------
    InvalidValue
        Where the seed is negative, the name cannot be a cohort's, or a cohort that is no phantom has the name.
    """
    _check(storage, name, seed)
    stated = _statement(parameters, seed=seed, null=null)
    storage.remove(f"raw/{name}")
    storage.write_text(phantom_key(name), stated)
    return _write_cohort(storage, name, range(parameters.total), parameters, seed=seed, null=null, progress=progress)


def extend_cohort(
    storage: Storage, name: str, *, cases: int = 1, workers: int | None = None, progress: Progress | None = None
) -> Cohort:
    """Add study cases to a phantom cohort; the cases that it has keep every byte.

    Raises
    ------
    NotFound
        Where there is no phantom of this name.
    InvalidValue
        Where ``cases`` is not positive.
    """
    key = phantom_key(name)
    if not storage.exists(key):
        raise NotFound("there is no such phantom cohort", step=STEP, field=key, got=name, remedy="run 'simulate' first")
    made = json.loads(storage.read_text(key))
    if cases < 1:
        raise InvalidValue("nothing to add", step=STEP, field="cases", expected="1 or more", got=cases)
    before = check_parameters(**made["parameters"])
    chosen = {} if workers is None else {"workers": workers}
    after = check_parameters(**{**made["parameters"], "cases": before.cases + cases, **chosen})
    seed, null = int(made["seed"]), bool(made["null"])
    cohort = _write_cohort(
        storage, name, range(before.total, after.total), after, seed=seed, null=null, progress=progress
    )
    storage.write_text(key, _statement(after, seed=seed, null=null))
    return cohort


def draw_patients(parameters: SimulateParameters, *, seed: int, null: bool = False) -> list[Patient]:
    """Return every patient of a cohort without making an image."""
    return [
        draw_patient(seed, i, subset="segmentation" if i < parameters.segmentation_cases else "study", null=null)
        for i in range(parameters.total)
    ]


def _check(storage: Storage, name: str, seed: int) -> None:
    if seed < 0:
        raise InvalidValue("the seed is negative", step=STEP, field="seed", expected="0 or more", got=seed)
    try:
        CaseRef(cohort=name, id="x")
    except ValidationError:
        raise InvalidValue(
            "this cannot be a cohort's name",
            step=STEP,
            field="name",
            expected="letters, digits, '-' and '_', 64 at most",
            got=repr(name),
        ) from None
    if storage.files(f"raw/{name}") and not storage.exists(phantom_key(name)):
        raise InvalidValue(
            "a cohort that is no phantom has this name",
            step=STEP,
            field="name",
            got=name,
            expected="a new name or a phantom's",
            remedy="choose another name, or remove the cohort yourself",
        )


def _statement(parameters: SimulateParameters, *, seed: int, null: bool) -> str:
    stated = {
        "parameters": parameters.model_dump(exclude={"workers"}),
        "seed": seed,
        "null": null,
        "effects": EFFECTS.to_table(),
    }
    return json.dumps(stated, indent=2) + "\n"


def _write_cohort(
    storage: Storage,
    name: str,
    indices: range,
    parameters: SimulateParameters,
    *,
    seed: int,
    null: bool,
    progress: Progress | None,
) -> Cohort:
    """Write the images of some cases, then the tables of all; the table of participants comes last."""
    for done, _ in enumerate(_each_case(storage, name, indices, parameters, seed=seed), start=1):
        if progress:
            progress(done, len(indices))
    patients = draw_patients(parameters, seed=seed, null=null)
    for table, file in zip(draw_expression(seed, patients, null=null), ("expression", "counts"), strict=True):
        with storage.publish(f"raw/{name}/{file}.parquet") as path:
            table.to_parquet(path)
    participants = pd.DataFrame([p.row for p in patients])
    scale = {"expression": "log2(FPKM + 1)", "counts": "counts"}
    write_statement(storage, name, Release("simulate", participants, scale=scale, licence="Simulated: no patients."))
    write_participants(storage, name, participants)
    return read_cohort(storage, name)


def _each_case(
    storage: Storage, name: str, indices: range, parameters: SimulateParameters, *, seed: int
) -> Iterator[int]:
    voxel_mm, workers = parameters.voxel_mm, min(parameters.workers, len(indices))
    if workers == 1:
        for index in indices:
            yield write_case(storage, name, index, seed=seed, voxel_mm=voxel_mm)
        return
    with start_workers(workers) as pool:
        jobs = [pool.submit(write_case, storage, name, i, seed=seed, voxel_mm=voxel_mm) for i in indices]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def write_case(storage: Storage, name: str, index: int, *, seed: int, voxel_mm: float) -> int:
    """Write the images of one case and return its index."""
    keys = CaseKeys(CaseRef(cohort=name, id=participant_label(index)))
    with itk_threads(1):
        head = draw_subject(random_stream(seed, index, Stream.ANATOMY), spacing_mm=working_spacing_mm(voxel_mm))
        biology = draw_patient(seed, index, subset="study").biology
        tumour = place_tumour(seed, index, draw_tumour_plan(seed, index, biology), head)
        acquisitions = plan_acquisitions(seed, index, voxel_mm=voxel_mm)
        for sequence, signal in tissue_signals(seed, index, head, tumour).items():
            write_volume(
                storage, keys.raw_image(sequence), acquire(seed, index, sequence, signal, acquisitions[sequence])
            )
        t1c = acquisitions[Sequence.T1C]
        write_volume(storage, keys.raw_segmentation, tumour.labels_on(head, t1c.grid, t1c.to_head))
        series = acquire_diffusion(seed, index, head, tumour, voxel_mm=voxel_mm)
        with storage.publish(keys.raw_dwi("nii.gz")) as path:
            sitk.WriteImage(series.image, str(path), useCompression=True)
        storage.write_text(keys.raw_dwi("bval"), " ".join(map(str, series.b_values)) + "\n")
        rows = (" ".join(f"{value:.6f}" for value in row) for row in np.asarray(series.directions))
        storage.write_text(keys.raw_dwi("bvec"), "\n".join(rows) + "\n")
    return index


def working_spacing_mm(voxel_mm: float) -> float:
    """Return the spacing at which heads are built: finer than the voxels, never finer than the atlas."""
    return max(1.0, round(voxel_mm * 2 / 3, 3))

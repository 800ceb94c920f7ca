"""Real experiments: which release becomes which cohort, and which study learns from which and is tried on which."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.datasets import importer
from pipelines.datasets.release import write_release
from pipelines.flows.study import run_study
from pipelines.parameters import read_section, read_value
from pipelines.reporting.report import write_report
from pipelines.studies import parameters_of
from services.shared.errors import GliaflowError
from services.shared.storage import Storage

FERRDB = ("ferrdb_v1_driver.csv", "ferrdb_v1_suppressor.csv", "ferrdb_v1_marker.csv")
GENE_SETS = (
    "enrichr.GO_Biological_Process_2021.gmt",
    "c5.cc.v7.0.symbols.gmt",
    "c5.mf.v7.0.symbols.gmt",
    "c2.cp.kegg.v7.0.symbols.gmt",
)
CLINIC = "tcga_glioma_clinical"


@dataclass(frozen=True)
class Dataset:
    """A release that becomes a cohort: importer, and files below the data folder."""

    importer: str
    source: str
    participants: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A study of one cohort.

    Parameters
    ----------
    parameters
        What differs from the section of params.yaml.
    files
        Parameters that are lists of files below the data folder.
    after
        Experiments whose results this one needs.
    """

    study: str
    cohort: str
    title: str
    validation: tuple[str, ...] = ()
    risk_groups_of: str | None = None
    parameters: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    after: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The command that does the same."""
        options = [f"--validation {name}" for name in self.validation]
        options += [f"--risk-groups-of {self.risk_groups_of}"] if self.risk_groups_of else []
        return " ".join([f"gliaflow study {self.study} --cohort {self.cohort}", *options])


DATASETS: Mapping[str, Dataset] = {
    "tcga": Dataset("porpoise", "tcga_glioma_expression/porpoise_tcga_gbmlgg_all_clean.csv.zip", CLINIC),
    "freije": Dataset("gliovis", "glioma_expression_cohorts/freije"),
    "ducray": Dataset("gliovis", "glioma_expression_cohorts/ducray"),
    "joo": Dataset("gliovis", "glioma_expression_cohorts/joo"),
    "bakas": Dataset("bakas", "tcia_bakas_radiomics", CLINIC),
    "bakasidh": Dataset("bakas", "tcia_bakas_radiomics", CLINIC),
    "bakasastro": Dataset("bakas", "tcia_bakas_radiomics", CLINIC),
    "upenn": Dataset("upenn_gbm", "upenn_gbm"),
    "mu": Dataset("mu_glioma_post", "mu_glioma_post"),
}
"""Releases by the name of the cohort that they become."""

_GENES: Mapping[str, tuple[str, ...]] = {
    "gene_lists": tuple(f"ferrdb_ferroptosis_genes/{name}" for name in FERRDB),
    "gene_sets": tuple(f"gene_sets_gmt/{name}" for name in GENE_SETS),
}

EXPERIMENTS: Mapping[str, Experiment] = {
    "ferroptosis-tcga": Experiment(
        "ferroptosis",
        "tcga",
        "Ferroptosis signature: trained on TCGA, tried on three microarray cohorts",
        validation=("freije", "ducray", "joo"),
        files=_GENES,
    ),
    "ferroptosis-freije": Experiment(
        "ferroptosis",
        "freije",
        "Ferroptosis signature: trained on Freije, tried on two other microarray cohorts",
        validation=("ducray", "joo"),
        files=_GENES,
    ),
    "ferroptosis-imaging": Experiment(
        "ferroptosis_imaging",
        "bakas",
        "Ferroptosis risk group from published radiomics of TCGA",
        risk_groups_of="tcga",
        after=("ferroptosis-tcga",),
    ),
    "diffusion-upenn": Experiment("diffusion", "upenn", "Diffusion radiomics and survival in UPENN-GBM"),
    "grading-bakas": Experiment("grading", "bakas", "Grade from published radiomics of TCGA"),
    "grading-survival-bakas": Experiment(
        "grading_survival", "bakas", "Survival of lower-grade glioma from published radiomics of TCGA"
    ),
    "atrx-bakas": Experiment(
        "atrx",
        "bakas",
        "ATRX from published radiomics of TCGA's lower-grade gliomas",
        parameters={"grades": "lower"},
    ),
    "atrx-bakas-idh-mutant": Experiment(
        "atrx",
        "bakasidh",
        "ATRX from published radiomics of TCGA's lower-grade gliomas with an IDH mutation",
        parameters={"grades": "lower", "population": "idh_mutant"},
    ),
    "atrx-bakas-astrocytoma": Experiment(
        "atrx",
        "bakasastro",
        "ATRX from published radiomics of TCGA's lower-grade astrocytomas with an IDH mutation",
        parameters={"grades": "lower", "population": "idh_mutant_noncodel"},
    ),
    "atrx-mu-glioma-post": Experiment("atrx", "mu", "ATRX from published radiomics of MU-Glioma-Post"),
}
"""Experiments by name, in an order in which each finds what it needs."""


@dataclass(frozen=True)
class Run:
    """What became of an experiment: seconds where it ran, otherwise why not."""

    name: str
    seconds: float | None = None
    seed: int | None = None
    problem: str = ""


def with_needed(names: Iterable[str]) -> list[str]:
    """Return experiments with those that they need, in the order of :data:`EXPERIMENTS`.

    Raises
    ------
    KeyError
        Where there is no experiment of a name.
    """
    wanted: set[str] = set()
    for name in names:
        wanted |= {name, *EXPERIMENTS[name].after}
    return [name for name in EXPERIMENTS if name in wanted]


def run_experiments(storage: Storage, data: Path, names: Sequence[str]) -> list[Run]:
    """Import, run and report each experiment, and keep a record beside its results.

    One that fails or lacks its data is recorded with the reason, and the others go on. Cohorts and results of an
    earlier run are removed first: nothing but the releases is read.
    """
    imported: dict[str, str] = {}
    runs = []
    for name in names:
        experiment = EXPERIMENTS[name]
        print(f"== {name}", flush=True)
        run = _run(storage, data, name, experiment, imported)
        storage.write_text(record_key(name), json.dumps(vars(run), indent=2) + "\n")
        print(f"   {run.problem or f'{run.seconds:.0f} s'}", flush=True)
        runs.append(run)
    return runs


def record_key(name: str) -> str:
    """Return the storage key of what became of an experiment."""
    return f"experiments/{name}.json"


def read_run(storage: Storage, name: str) -> Run | None:
    """Return what became of an experiment, or None where it never ran."""
    key = record_key(name)
    return Run(**json.loads(storage.read_text(key))) if storage.exists(key) else None


def _run(storage: Storage, data: Path, name: str, experiment: Experiment, imported: dict[str, str]) -> Run:
    storage.remove(f"studies/{experiment.cohort}/{experiment.study}")
    absent = [name for files in experiment.files.values() for name in files if not (data / name).exists()]
    if absent:
        return Run(name, problem=f"skipped: there is no {', '.join(absent)} in the data folder")
    for cohort in (experiment.cohort, *experiment.validation):
        problem = imported.setdefault(cohort, _import(storage, data, cohort) if cohort not in imported else "")
        if problem:
            return Run(name, problem=f"{cohort}: {problem}")
    seed = read_value(None, "seed", default=0)  # the seed of the documented commands, not one of several
    started = time.perf_counter()
    try:
        run_study(
            experiment.cohort,
            experiment.study,
            _parameters(experiment, data),
            seed,
            validation=experiment.validation,
            risk_groups_of=experiment.risk_groups_of,
        )
        seconds = time.perf_counter() - started
        write_report(storage, experiment.cohort)
    except Exception as error:  # noqa: BLE001 - a fault of one experiment must not cost the others
        if not isinstance(error, GliaflowError):
            traceback.print_exc()
        return Run(name, problem=f"failed: {type(error).__name__}: {error}")
    return Run(name, seconds=round(seconds, 1), seed=seed)


def _import(storage: Storage, data: Path, cohort: str) -> str:
    """Import a cohort's release; return why it could not be, or nothing."""
    dataset = DATASETS[cohort]
    source = data / dataset.source
    if not source.exists() and not any(source.parent.glob(f"{source.name}_*")):
        return f"skipped: there is no {dataset.source} in the data folder"
    participants = data / dataset.participants if dataset.participants else None
    storage.remove(f"raw/{cohort}")
    try:
        write_release(storage, cohort, importer(dataset.importer).read_release(source, participants=participants))
    except GliaflowError as error:
        return f"the release cannot be imported: {error}"
    return ""


def _parameters(experiment: Experiment, data: Path) -> object:
    kind = parameters_of(experiment.study)
    files = {name: tuple(str(data / file) for file in found) for name, found in experiment.files.items()}
    section = read_section(None, experiment.study, kind)
    return kind.model_validate(section.model_dump() | dict(experiment.parameters) | files)

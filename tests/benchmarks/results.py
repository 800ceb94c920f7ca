"""Run every real experiment and write RESULTS.md; then README.md's short table, with the demo's figures, by markers.

``make demo`` first: it leaves the phantom's figures in the storage root. Real input is read from GLIAFLOW_REAL_DATA.
``--only NAME`` (several times if needed) runs single experiments and writes RESULTS.md alone; ``--keep`` runs none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pipelines.clients import connect
from pipelines.datasets.nifti import import_nifti
from pipelines.predict import predict_case
from pipelines.reporting.report import summary_table
from pipelines.reporting.sources import read_studies
from services.feature_store.contracts import ExtractRequest, RegisterRequest
from services.model_serving.package import Estimate
from services.preprocessing.contracts import PrepareParameters, PrepareRequest, PrepareResult
from services.segmentation.contracts import SegmentParameters, SegmentRequest
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, read_cohort
from services.shared.contracts import CaseRef
from services.shared.settings import quiet_libraries, settings
from services.shared.storage import Storage, open_storage
from tests.benchmarks.experiments import EXPERIMENTS, read_run, run_experiments, with_needed
from tests.benchmarks.page import README, RESULTS, write_section
from tests.benchmarks.results_page import results_page

DEMO = "phantom"
EXPERT = SegmentParameters(source="expert")
Answer = TypeVar("Answer")


def timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
    started = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - started


def figure(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f}–{estimate.high:.3f})"


def study_rows(storage: Storage, cohort: str, title: str, studies: Sequence[str] | None = None) -> Iterator[str]:
    for row in summary_table(storage, cohort, studies):
        cells = (row.auc, row.sensitivity, row.specificity, row.accuracy, row.permuted_auc)
        yield f"| {title} | {row.study} | {row.patients} | {' | '.join(map(figure, cells))} |"


def prepare(storage: Storage, source: Path, cohort: str, voxel_mm: float) -> tuple[CaseRef, PrepareResult, float]:
    storage.remove(f"raw/{cohort}")
    storage.remove(f"derivatives/preprocessed/{cohort}")
    storage.remove(f"derivatives/segmentation/{cohort}")
    storage.remove(f"features/{cohort}")
    ((imported,), _) = import_nifti(storage, source, cohort)
    request = PrepareRequest(case=imported.case, parameters=PrepareParameters(voxel_mm=voxel_mm))
    result, seconds = timed(lambda: connect("preprocessing").prepare(request))
    return imported.case, result, seconds


def real_cases(storage: Storage, data: Path) -> Iterator[str]:
    service = connect("feature_store")
    source = data / "mri_brats_cases" / "BraTS2021_00495"
    case, prepared, seconds = prepare(storage, source, "brats-1mm", 1.0)
    segmented = connect("segmentation").segment(SegmentRequest(case=case, parameters=EXPERT))
    extracted, extract_seconds = timed(lambda: service.extract(ExtractRequest(case=case)))
    volumes = ", ".join(f"{region} {volume:.1f}" for region, volume in segmented.volumes_ml.items())
    yield (
        f"BraTS2021_00495 at 1 mm, expert mask: prepared in {seconds:.0f} s (came skull-stripped and aligned; "
        f"brain {prepared.quality.brain_volume_ml:.0f} ml kept, sequences moved at most "
        f"{max(q.shift_mm for q in prepared.quality.sequences.values()):.2f} mm), regions in ml {volumes}; "
        f"{extracted.features:,} features in {extract_seconds:.1f} s."
    )
    if DEMO in storage.folders("studies"):
        case, _, _ = prepare(storage, source, "brats", 3.0)
        connect("segmentation").segment(SegmentRequest(case=case, parameters=EXPERT))
        service.extract(ExtractRequest(case=case))
        service.register(RegisterRequest(cohort=case.cohort, cases=(case,)))
        found = predict_case(case, "grading/latest")
        yield (
            f"The same case at the phantom's 3 mm through the phantom's grading model: probability of HGG "
            f"{found.probability:.3f}, {len(found.out_of_range)} of {len(found.effects)} features beyond 4 SD of the "
            "phantom's. It shows that the chain is closed; a model of phantoms says nothing about a patient."
        )
    _, prepared, seconds = prepare(storage, data / "mri_raw_tcga" / "TCGA-02-0054", "tcga-1mm", 1.0)
    yield (
        f"TCGA-02-0054, native head with 6.5 mm slices, to 1 mm: prepared in {seconds:.0f} s, brain "
        f"{prepared.quality.brain_volume_ml:.0f} ml, Dice with the atlas's brain {prepared.quality.atlas_dice:.2f} "
        "(no true mask exists)."
    )


def demo_dice(storage: Storage) -> str:
    values: dict[str, list[float]] = {}
    for case in read_cohort(storage, DEMO).subset("study").cases:
        dice = json.loads(storage.read_text(finding_key(CaseKeys(case)))).get("dice") or {}
        for region, value in dice.items():
            if value is not None:
                values.setdefault(region, []).append(value)
    shown = ", ".join(f"{region} {statistics.median(found):.2f} (n = {len(found)})" for region, found in values.items())
    return f"Segmentation network on phantoms it never saw, median Dice: {shown}."


def classification_rows(storage: Storage) -> Iterator[str]:
    yield "| data | study | patients | AUC | sensitivity | specificity | accuracy | AUC, permuted labels |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    if DEMO in storage.folders("studies"):
        yield from study_rows(storage, DEMO, "phantom (`make demo`)")
    for name, experiment in EXPERIMENTS.items():
        run = read_run(storage, name)
        if run is not None and not run.problem:
            yield from study_rows(storage, experiment.cohort, f"[{name}](RESULTS.md#{name})", [experiment.study])


def survival_rows(storage: Storage) -> Iterator[str]:
    yield "| data | patients (deaths) | C-index out of fold | other cohorts, unchanged | C-index, permuted follow-up |"
    yield "| --- | --- | --- | --- | --- |"
    for name, experiment in EXPERIMENTS.items():
        run = read_run(storage, name)
        if run is None or run.problem:
            continue
        for found in read_studies(storage, experiment.cohort, [experiment.study]):
            if found.kind == "survival":
                others = ", ".join(
                    f"{cohort} {figure(found.estimate(f'validation_{cohort}_c_index'))}"
                    for cohort in experiment.validation
                )
                cells = (
                    f"{found.patients} ({found.metrics['train_deaths']:.0f})",
                    figure(found.estimate("cv_c_index")),
                    others or "–",
                    figure(found.estimate("permuted_c_index")),
                )
                yield f"| [{name}](RESULTS.md#{name}) | {' | '.join(cells)} |"


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="results", description="Run real experiments and write RESULTS.md")
    parser.add_argument("--only", action="append", choices=list(EXPERIMENTS), metavar="NAME", help="an experiment")
    parser.add_argument("--keep", action="store_true", help="write the pages from what earlier runs left")
    return parser.parse_args()


def main() -> None:
    """Measure and write."""
    arguments = read_arguments()
    quiet_libraries()
    storage = open_storage()
    data = settings().real_data
    runs = [] if arguments.keep else run_experiments(storage, data, with_needed(arguments.only or EXPERIMENTS))
    RESULTS.write_text(results_page(storage, EXPERIMENTS), encoding="utf-8")
    if not arguments.only:
        lines = [*classification_rows(storage), "", *survival_rows(storage)]
        notes = [demo_dice(storage)] if DEMO in storage.folders("studies") else []
        notes += real_cases(storage, data) if data.is_dir() else ()
        lines += ["", *(f"- {note}" for note in notes), "- Everything else is in [RESULTS.md](RESULTS.md)."]
        write_section(README, "results", lines)
        print("\n".join(lines))
    failed = [run.name for run in runs if run.problem.startswith("failed") or "cannot be imported" in run.problem]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

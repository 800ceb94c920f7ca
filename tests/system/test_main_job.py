"""The main job through the command line: from simulated scans to studies, report and prediction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from pipelines.cli import app
from pipelines.cli.app import EXIT_QUARANTINED
from pipelines.flows.study_inputs import features_of_store
from pipelines.simulate import SimulateParameters, extend_cohort, simulate_cohort
from pipelines.studies import study
from services.shared.cohort import CaseKeys, Sequence, participants_key
from services.shared.contracts import CaseRef
from services.shared.settings import settings
from services.shared.storage import Storage

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.slow, pytest.mark.timeout(1200)]

PARAMS = """
cohort: phantom
seed: 11
simulate: {cases: 40, segmentation_cases: 0, voxel_mm: 5.0}
prepare: {voxel_mm: 4.0, diffusion: false}
segment: {source: expert}
grading: {permutations: 3}
atrx: {permutations: 3}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Path]:
    """A workspace with 40 phantom patients, prepared, segmented by their experts, and extracted."""
    folder = tmp_path_factory.mktemp("main-job")
    (folder / "params.yaml").write_text(PARAMS)
    patch = pytest.MonkeyPatch()
    patch.setenv("GLIAFLOW_STORAGE_ROOT", str(folder / "workspace"))
    settings.cache_clear()
    for command in ("simulate", "prepare", "segment", "extract"):
        run(folder, command)
    yield folder
    patch.undo()
    settings.cache_clear()


def run(folder: Path, *arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--params", str(folder / "params.yaml")], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


def metrics(folder: Path, study: str) -> dict[str, float]:
    return json.loads((folder / "workspace" / "studies" / "phantom" / study / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["grading", "atrx"])
def test_planted_effect_is_recovered_and_shuffled_labels_are_not(root: Path, name: str) -> None:
    run(root, "study", name)
    found = metrics(root, name)
    assert found["patients"] == 40
    assert found["auc_low"] > 0.5, found
    assert found["permuted_auc_low"] < 0.5 < found["permuted_auc_high"]


@pytest.mark.parametrize("name", ["grading", "atrx"])
def test_null_phantom_yields_nothing(root: Path, name: str) -> None:
    """The null phantom has the same images as the planted one; only what is said of the patients differs."""
    storage = Storage(root / "workspace")
    parameters = SimulateParameters(cases=40, segmentation_cases=0, voxel_mm=5.0)
    simulate_cohort(storage, "null", parameters=parameters, seed=11, null=True)
    planted, null = (storage.files(f"raw/{name}/sub-phantom0003") for name in ("phantom", "null"))
    assert [storage.sha256(key) for key in planted] == [storage.sha256(key) for key in null]
    run(
        root,
        "study",
        name,
        "--cohort",
        "null",
        "--features",
        str(root / "workspace" / "features" / "phantom" / "radiomics.parquet"),
    )
    found = json.loads(storage.read_text(f"studies/null/{name}/metrics.json"))
    assert found["auc_low"] < 0.5 < found["auc_high"], found


def test_report_and_prediction_come_of_it(root: Path) -> None:
    run(root, "study", "grading")
    page = Path(run(root, "report").stdout.strip().splitlines()[-1])
    assert "<svg" in page.read_text()
    answer = run(root, "predict", "sub-phantom0001").stdout
    assert "with probability" in answer
    assert "Effect (" in answer


def test_cohort_without_scan_dates_has_its_features_too(root: Path) -> None:
    storage = Storage(root / "workspace")
    key = participants_key("phantom")
    dated = storage.read_text(key)
    with storage.local(key) as path:
        frame = pd.read_csv(path, sep="\t").drop(columns="scan_date")
    storage.write_text(key, frame.to_csv(sep="\t", index=False))
    try:
        run(root, "extract")
        given = features_of_store(storage, "phantom", "grading", study("grading"))
    finally:
        storage.write_text(key, dated)
    run(root, "extract")
    assert given.features.shape[0] == 40
    assert given.features["T1c_WT_original_firstorder_Entropy"].notna().all()


def test_second_run_does_nothing_and_one_more_case_costs_one_case(root: Path) -> None:
    for command in ("prepare", "segment", "extract"):
        assert "40 done (40 of them unchanged)" in run(root, command).stderr
    extend_cohort(Storage(root / "workspace"), "phantom", cases=1)
    for command in ("prepare", "segment", "extract"):
        assert "41 done (40 of them unchanged)" in run(root, command).stderr


def test_bad_cases_are_quarantined_with_their_reasons_and_the_others_go_on(root: Path, tmp_path: Path) -> None:
    parameters = (root / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(parameters.replace("diffusion: false", "diffusion: true"))
    storage = Storage(root / "workspace")
    simulate_cohort(storage, "bad", parameters=SimulateParameters(cases=3, segmentation_cases=0, voxel_mm=6.0), seed=3)
    first, second = (CaseKeys(CaseRef(cohort="bad", id=f"phantom000{number}")) for number in (1, 2))
    storage.remove(first.raw_image(Sequence.T2))
    content = storage.read_bytes(second.raw_image(Sequence.FLAIR))
    storage.write_bytes(second.raw_image(Sequence.FLAIR), content[: len(content) // 2])
    answer = run(tmp_path, "prepare", "--cohort", "bad", exit_code=EXIT_QUARANTINED).stderr
    assert "prepare: 1 done (0 of them unchanged), 2 quarantined" in answer
    assert "diffusion: 1 done (0 of them unchanged), 0 quarantined" in answer
    assert "without T2w" in answer
    assert "damaged" in answer
    assert "2 quarantined" in run(tmp_path, "prepare", "--cohort", "bad", "--tolerate", "2").stderr
    for command in ("segment", "extract"):
        assert "1 done" in run(tmp_path, command, "--cohort", "bad").stderr
    left = [key for key in storage.files(first.preprocessed) if not key.endswith("qc.json")]
    assert left == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(participant_id="sub-phantom0001"), "occurs more than once"),
        (lambda frame: frame.drop(index=0), "do not name the same cases"),
        (lambda frame: frame.drop(columns="participant_id"), "no participant_id"),
    ],
)
def test_clinical_table_that_does_not_fit_stops_the_command(root: Path, change, message: str) -> None:
    from services.shared.errors import InvalidTable

    storage = Storage(root / "workspace")
    simulate_cohort(
        storage, "table", parameters=SimulateParameters(cases=2, segmentation_cases=0, voxel_mm=6.0), seed=3
    )
    key = participants_key("table")
    with storage.local(key) as path:
        frame = pd.read_csv(path, sep="\t")
    storage.write_text(key, change(frame).to_csv(sep="\t", index=False))
    with pytest.raises(InvalidTable, match=message):
        CliRunner().invoke(app, ["prepare", "--cohort", "table"], catch_exceptions=False)

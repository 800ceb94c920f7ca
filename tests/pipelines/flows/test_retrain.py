"""A model is kept fresh: only what changed runs, the gate decides, and whatever ends a run, the next one goes on."""

from __future__ import annotations

import hashlib
import re
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.flows import retraining_steps
from pipelines.flows.plan import plan_retraining
from pipelines.flows.promote import NotPromoted, promote_version, roll_back
from pipelines.flows.retrain import retrain
from pipelines.promotion.lock import Locked, hold_lock
from pipelines.promotion.parameters import RetrainParameters, ServingThresholds
from pipelines.promotion.record import STEPS, Recorder, list_runs, read_run
from pipelines.rollout.contract import RolloutFailed
from pipelines.versioning.errors import DirtyTree, RemoteUnreachable, StageFailed
from services.model_serving import registry
from services.shared.errors import ChangedFile, InvalidValue
from services.shared.manifest import read_manifest
from services.shared.storage import Storage
from tests.pipelines.flows.hospital import MODEL, NOW, Hospital, enter, git

pytestmark = [pytest.mark.xdist_group("retraining"), pytest.mark.usefixtures("prefect_api")]
AT_ONCE = RetrainParameters(model=MODEL, serving=ServingThresholds(watch_s=0.2, ready_s=2.0, min_requests=1))
TOO_SLOW = ServingThresholds(watch_s=0.2, ready_s=2.0, min_requests=1, max_latency_p95_s=1e-9)

SPOIL = """\
import hashlib, io, json
import numpy as np
from services.model_serving.registry import register_package
from services.shared.storage import Storage

storage, folder = Storage("workspace"), "studies/home/grading/model"
with np.load(io.BytesIO(storage.read_bytes(f"{folder}/arrays.npz"))) as archive:
    arrays = dict(archive)
card = json.loads(storage.read_text(f"{folder}/package.json"))
HOW
content = io.BytesIO()
np.savez(content, **arrays)
card["arrays_sha256"] = hashlib.sha256(content.getvalue()).hexdigest()
storage.write_bytes(f"{folder}/arrays.npz", content.getvalue())
storage.write_text(f"{folder}/package.json", json.dumps(card))
register_package(storage, folder, model="grading-home")
"""
"""A training that diverges: run after the study, it does HOW to the package and registers what comes of it."""


class Killed(BaseException):
    """The process ends here."""


def test_new_patients_make_a_challenger_that_becomes_champion(promoted: Hospital) -> None:
    storage = promoted.storage
    (run,) = list_runs(storage)
    assert run.outcome == "promoted", run.reason
    assert [record.step for record in run.steps] == list(STEPS)
    assert run.id == f"20310303T030000Z-{MODEL}"
    made = run.result("reproduce")
    assert made is not None
    assert made["stages"] == ["raw", "grading"]
    second = registry.champion(storage, MODEL)
    assert second == made["challenger"] != run.champion
    (change,) = registry.history(storage, MODEL)
    assert (change.previous, change.champion, change.run) == (run.champion, second, run.id)
    assert registry.serving(storage, MODEL) == second
    assert registry.challenger(storage, MODEL) is None
    assert git(promoted.root, "tag", "--list") == f"model/{MODEL}/{second}"
    assert git(promoted.root, "status", "--porcelain") == ""
    manifest = read_manifest(storage, f"{run.folder}/manifest.json")
    assert manifest is not None
    assert manifest.notes[0].startswith("promoted: passed")
    assert {f"{registry.ROOT}/{MODEL}/{second}/package.json", "raw/home/features.parquet"} <= set(manifest.inputs)
    page = storage.read_text(f"{run.folder}/report.html")
    assert "Champion and challenger on the same patients" in page
    assert not re.search(r"p\d{3}\b", page)  # no patient is named


def test_where_nothing_changed_nothing_runs(promoted: Hospital) -> None:
    champion = registry.champion(promoted.storage, MODEL)
    run = retrain(now="2031-03-10T03:00:00")
    assert run.outcome == "unchanged"
    made = run.result("reproduce")
    assert made is not None
    assert made["stages"] == []
    assert registry.champion(promoted.storage, MODEL) == champion
    assert len(registry.history(promoted.storage, MODEL)) == 1


def test_killed_at_every_step_it_goes_on_to_the_same_end(
    hospital: Hospital, promoted_hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is killed after what it does and before it is written down: then it is done again."""
    hospital.admit(160)
    write = Recorder._write
    target = ""

    def write_or_die(recorder: Recorder, **changes: object) -> None:
        steps = changes.get("steps")
        if isinstance(steps, tuple) and steps[-1].step == target:
            raise Killed
        write(recorder, **changes)

    monkeypatch.setattr(Recorder, "_write", write_or_die)
    for target in STEPS:
        with pytest.raises(Killed):
            retrain(trigger="test", now=NOW)
        assert registry.resolve(hospital.storage, MODEL).version  # what serves can always be told
        if target == "register":
            shutil.copytree(hospital.root.parent, tmp_path / "before-trial", symlinks=True)
    target = ""
    run = retrain(trigger="test", now=NOW)
    assert run.outcome == "promoted"
    assert [record.step for record in run.steps] == list(STEPS)
    theirs = promoted_hospital.storage
    for folder in (registry.ROOT, registry.ALIASES):
        assert _hashes(hospital.storage, folder) == _hashes(theirs, folder)
    assert git(hospital.root, "tag", "--list") == git(promoted_hospital.root, "tag", "--list")
    assert git(hospital.root, "status", "--porcelain") == ""
    assert len(git(hospital.root, "log", "--oneline").splitlines()) == 4  # start, first, patients, retrained

    trial = enter(Hospital(tmp_path / "before-trial" / "repository"), monkeypatch)
    _served_badly_it_goes_back(trial)


def _served_badly_it_goes_back(hospital: Hospital) -> None:
    path = hospital.root / "slow.yaml"
    path.write_text(
        (hospital.root / "params.yaml").read_text().replace("watch_s: 0.3", "max_latency_p95_s: 1.0e-9, watch_s: 0.3")
    )
    with pytest.raises(ChangedFile, match="--anew"):  # another tree than the one that the run began in
        git(hospital.root, "commit", "--quiet", "--allow-empty", "--message", "meanwhile")
        retrain()
    git(hospital.root, "reset", "--quiet", "--hard", "HEAD~1")
    run = retrain(params=str(path))
    assert run.outcome == "rolled back"
    assert run.problem is not None
    assert run.problem["step"] == "watch"
    assert "latency" in run.problem["got"]
    storage = hospital.storage
    assert registry.champion(storage, MODEL) == run.champion == registry.serving(storage, MODEL)
    assert registry.challenger(storage, MODEL) is None
    assert "Rollout failed" in storage.read_text(f"{run.folder}/report.html")


def test_a_challenger_that_learnt_from_fewer_patients_is_not_promoted(hospital: Hospital) -> None:
    champion = registry.champion(hospital.storage, MODEL)
    hospital.admit(90)
    run = retrain(now=NOW)
    made = run.result("reproduce")
    assert made is not None
    assert made["challenger"] != champion
    assert run.outcome == "kept"
    assert re.search(r"training events: \d+, expected at least \d+", str(run.reason))
    _require_untouched(hospital, champion)


def test_a_challenger_whose_predictions_are_not_numbers_is_not_promoted(hospital: Hospital) -> None:
    champion = registry.champion(hospital.storage, MODEL)
    # A machine of this width multiplies infinities of both signs.
    _spoil(hospital, "arrays['gamma'] = np.array([-1.0e4])")
    run = retrain(now=NOW)
    assert run.outcome == "kept"
    for figure in ("AUC not lower", "Brier score", "calibration in the large"):
        assert f"{figure}: not defined in these patients" in str(run.reason)
    _require_untouched(hospital, champion)


def test_a_challenger_whose_own_figures_are_not_numbers_is_not_promoted(hospital: Hospital) -> None:
    champion = registry.champion(hospital.storage, MODEL)
    _spoil(hospital, "card['metrics']['auc']['value'] = float('nan')")
    with pytest.raises(StageFailed, match=r"metrics\.auc\.value: Input should be a finite number"):
        retrain(now=NOW)
    _require_untouched(hospital, champion)


def _spoil(hospital: Hospital, how: str) -> None:
    """Let the next training diverge."""
    (hospital.root / "spoil.py").write_text(SPOIL.replace("HOW", how))
    pipeline = (hospital.root / "dvc.yaml").read_text()
    study = "gliaflow study grading --cohort home"
    git(hospital.root, "add", "spoil.py")
    hospital.write("dvc.yaml", pipeline.replace(study, f"{study} && python spoil.py"))


def _require_untouched(hospital: Hospital, champion: str | None) -> None:
    storage = hospital.storage
    assert registry.champion(storage, MODEL) == champion == registry.serving(storage, MODEL)
    assert registry.challenger(storage, MODEL) is None
    assert registry.history(storage, MODEL) == ()
    assert git(hospital.root, "tag", "--list") == ""


def test_a_dirty_tree_stops_it_and_committing_is_the_way_on(hospital: Hospital) -> None:
    before = _hashes(hospital.storage, "models")
    hospital.write("source.csv", (hospital.root / "source.csv").read_text() + "\n", commit=False)
    with pytest.raises(DirtyTree, match=r"source\.csv"):
        retrain(now=NOW)
    assert _hashes(hospital.storage, "models") == before
    (run,) = list_runs(hospital.storage)
    assert run.outcome is None
    assert run.problem is not None
    assert run.problem["step"] == "check"
    assert "Uncommitted changes" in hospital.storage.read_text(f"{run.folder}/report.html")
    git(hospital.root, "checkout", "--quiet", "source.csv")
    assert retrain(now=NOW).outcome == "unchanged"


def test_an_unreachable_remote_is_tried_again_then_told_and_the_run_goes_on(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.flows.retrain.RETRY_DELAYS_S", (0.0, 0.0))
    tries = []
    pull = retraining_steps.pull
    monkeypatch.setattr(retraining_steps, "pull", lambda work: tries.append(1) or pull(work))
    local = hospital.root / ".dvc" / "config.local"
    local.write_text("['remote \"beside\"']\n    url = /nowhere/at/all\n")
    with pytest.raises(RemoteUnreachable, match="/nowhere/at/all"):
        retrain(now=NOW)
    assert len(tries) == 3
    local.unlink()
    run = retrain()
    assert (run.id, run.outcome) == (f"20310303T030000Z-{MODEL}", "unchanged")


def test_two_at_once(hospital: Hospital) -> None:
    with hold_lock(hospital.storage, "somebody", clock=lambda: datetime.fromisoformat(f"{NOW}+00:00")):
        with pytest.raises(Locked, match="somebody"):
            retrain(now=NOW)
        with pytest.raises(Locked, match="somebody"):
            roll_back(MODEL, AT_ONCE)
    assert list_runs(hospital.storage) == ()


def test_a_dry_run_prints_the_plan_and_changes_nothing(hospital: Hospital) -> None:
    hospital.admit(160)
    before = _tree(hospital.root)
    shown = CliRunner().invoke(app, ["retrain", "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "grading" in shown.output
    assert "source.csv" in shown.output
    assert _tree(hospital.root) == before
    plan = plan_retraining()
    assert [stage.stage for stage in plan.stages] == ["raw", "grading"]
    assert (plan.model, plan.unfinished, plan.obstacles) == (MODEL, None, ())
    (hospital.root / "untracked.txt").write_text("x")
    assert [problem["title"] for problem in plan_retraining().obstacles] == ["Uncommitted changes"]


def test_another_storage_than_the_repositorys_is_refused(
    hospital: Hospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.shared.settings import settings

    monkeypatch.setenv("GLIAFLOW_STORAGE_ROOT", str(tmp_path))
    settings.cache_clear()
    with pytest.raises(InvalidValue, match="GLIAFLOW_STORAGE_ROOT"):
        retrain(now=NOW)


def test_by_hand_the_same_gate_and_the_same_trial_and_back_again(promoted: Hospital) -> None:
    storage = promoted.storage
    first, second = (entry.version for entry in registry.list_versions(storage, MODEL))
    with pytest.raises(RolloutFailed, match="latency"):
        promote_version(
            f"{MODEL}/{first}", AT_ONCE.model_copy(update={"serving": TOO_SLOW}), reason="trial", compared=False
        )
    assert registry.serving(storage, MODEL) == second
    strict = AT_ONCE.model_copy(update={"gate": AT_ONCE.gate.model_copy(update={"min_held_out_events": 500})})
    with pytest.raises(NotPromoted, match="held-out patients"):
        promote_version(f"{MODEL}/{first}", strict)
    with pytest.raises(InvalidValue, match="--reason"):
        promote_version(f"{MODEL}/{first}", AT_ONCE, compared=False)
    assert registry.champion(storage, MODEL) == second

    runner = CliRunner()
    done = runner.invoke(app, ["rollback", MODEL, "--reason", "a doubt"])
    assert done.exit_code == 0, done.output
    assert registry.champion(storage, MODEL) == first == registry.serving(storage, MODEL)
    run = retrain(now="2031-03-10T03:00:00")  # what a person took out of service comes back by hand alone
    assert run.outcome == "kept"
    assert "a doubt" in str(run.reason)
    done = runner.invoke(app, ["promote", f"{MODEL}/{second}", "--without-comparison", "--reason", "no doubt"])
    assert done.exit_code == 0, done.output
    assert registry.champion(storage, MODEL) == second
    shown = runner.invoke(app, ["models", MODEL], env={"COLUMNS": "200"})
    assert "champion" in shown.output
    assert [change.reason for change in registry.history(storage, MODEL)][1:] == ["a doubt", "no doubt"]


def test_a_run_that_was_begun_in_its_place_closes_an_unfinished_one(hospital: Hospital) -> None:
    (hospital.root / "untracked.txt").write_text("x")
    with pytest.raises(DirtyTree):
        retrain(now=NOW)
    (hospital.root / "untracked.txt").unlink()
    second = retrain(now="2031-03-04T03:00:00", anew=True)
    first = read_run(hospital.storage, f"20310303T030000Z-{MODEL}")
    assert first is not None
    assert (first.outcome, second.outcome) == ("abandoned", "unchanged")


def _hashes(storage: Storage, folder: str) -> dict[str, str]:
    return {key: storage.sha256(key) for key in storage.files(folder)}


def _tree(root: Path) -> dict[str, str]:
    """Hash everything but DVC's own scratch files and git's index, which reading refreshes."""
    apart = (root / ".dvc" / "tmp", root / ".git" / "index")
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(path.is_relative_to(each) for each in apart)
    }

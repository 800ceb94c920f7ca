"""What imaging networks find on a phantom, and that they find nothing where nothing is: writes docs/imaging.md.

Small networks on a small cohort, on one core in minutes. Every figure is of patients whom the network had not seen.
``--part NAME`` (several times if needed) measures some parts and takes the others as an earlier run left them.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch

from pipelines.modelling.survival_study import StudyCohort
from pipelines.parameters import read_value
from pipelines.phantom.effects import EFFECTS
from pipelines.reporting.highlighted import compare_highlighted, draw_highlighted
from pipelines.simulate import SimulateParameters, draw_patients
from pipelines.studies import atrx, diffusion, grading
from pipelines.studies.ferroptosis_imaging import FIGURES, fold_figures
from pipelines.studies.imaging_outcome import read_outcome, study_folds
from pipelines.training.imaging import cross_validate_imaging, train_imaging
from pipelines.training.imaging_figures import imaging_metrics
from pipelines.training.imaging_parameters import ImagingTraining
from services.feature_store.contracts import ExtractParameters
from services.feature_store.radiomics import extract_case, read_row
from services.feature_store.studies import deep_columns
from services.model_serving.case_input import prepare_input, read_volumes
from services.model_serving.contracts import DeepParameters, DeepRequest, ExplainRequest
from services.model_serving.deep_features import extract_deep, unseen_network
from services.model_serving.imaging import explain_case, patient_activation
from services.model_serving.inputs import lay_back
from services.model_serving.networks.specification import Architecture, ImagingSpec, build_network
from services.shared.cohort import CaseKeys, Region, region_mask
from services.shared.cohort import Sequence as Mri
from services.shared.contracts import CaseRef
from services.shared.settings import quiet_libraries
from services.shared.storage import Storage, open_storage
from services.shared.trained_network import load_network
from tests.benchmarks.imaging_phantom import lay_cohort
from tests.benchmarks.page import ROOT, write_section

PAGE = ROOT / "docs" / "imaging.md"
PICTURES = ROOT / "docs" / "imaging"
COHORT = "imaging"
ELSEWHERE = "elsewhere"
CASES = 40
VOXEL_MM = 3.0
VOLUME = {"size": (32, 40, 32), "voxel_mm": VOXEL_MM, "width": 8}
LEARNT: Mapping[str, object] = {"folds": 3, "epochs": 14, "batch": 8, "learning_rate": 1e-3, "tuning_fraction": 0.0}
MAPS: Mapping[str, object] = {"size": (48, 48), "width": 16, "epochs": 20, "batch": 27, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Trial:
    """One network on one outcome."""

    title: str
    architecture: Architecture
    changes: Mapping[str, object]
    null: bool = False

    @property
    def model(self) -> str:
        """Where it is kept."""
        name = "-".join(word.strip(",()") for word in self.title.lower().split())
        return f"models/imaging/bench/{name}{'-null' if self.null else ''}"


GRADE = {
    ("patch", True): "grade, patch, SE",
    ("patch", False): "grade, patch, no SE",
    ("whole", True): "grade, whole brain, SE",
    ("whole", False): "grade, whole brain, no SE",
}
TRIALS: tuple[Trial, ...] = (
    *(
        Trial(
            title, "grade", VOLUME | {"view": view, "excitation": se} | ({"voxel_mm": 5.0} if view == "whole" else {})
        )
        for (view, se), title in GRADE.items()
    ),
    *(Trial(f"risk group, {r}", "risk_group", VOLUME | {"region": r, "width": 8}) for r in (Region.TC, Region.WT)),
    Trial("survival from diffusion maps", "diffusion_survival", MAPS),
)
NULL_TRIALS: tuple[Trial, ...] = tuple(
    Trial(trial.title, trial.architecture, trial.changes, null=True)
    for trial in TRIALS
    if trial.title in ("grade, patch, SE", "risk group, TC", "risk group, WT", "survival from diffusion maps")
)


def participants(seed: int, *, null: bool) -> pd.DataFrame:
    """Return the clinical table: planted, or drawn free of the images, which are the same bytes."""
    parameters = SimulateParameters(cases=CASES, segmentation_cases=0, voxel_mm=VOXEL_MM)
    return pd.DataFrame([patient.row for patient in draw_patients(parameters, seed=seed, null=null)])


def run_trial(
    storage: Storage, cases: Sequence[CaseRef], trial: Trial, seed: int, *, final: bool = False
) -> pd.DataFrame:
    """Return what the networks of a trial say of patients that they had not seen; ``final``: one of all besides."""
    ids = pd.Index([case.id for case in cases])
    outcome, reasons = read_outcome(participants(seed, null=trial.null), ids, trial.architecture, None)
    rows = np.array([row for row, i in enumerate(ids) if i not in reasons], dtype=np.int64)
    training = ImagingTraining.model_validate({**LEARNT, **trial.changes})
    outcome = outcome.take(rows)
    started = time.process_time()
    folds = study_folds(outcome, folds=training.fold_count(trial.architecture), seed=seed)
    chosen, spec = [cases[row] for row in rows], training.spec(trial.architecture)
    parameters = training.parameters(trial.architecture)
    found = cross_validate_imaging(
        storage, chosen, outcome, folds, spec=spec, parameters=parameters, seed=seed, model=trial.model
    )
    if final:
        train_imaging(
            storage, chosen, outcome, spec=spec, parameters=parameters, seed=seed, model=trial.model, folds=folds
        )
    print(
        f"{trial.title}{', null' if trial.null else ''}: {figure(imaging_metrics(found))}, "
        f"{time.process_time() - started:.0f} s of CPU",
        flush=True,
    )
    return found


def figure(metrics: Mapping[str, float], name: str | None = None) -> str:
    key = name or ("auc" if "auc" in metrics else "c_index")
    return f"{metrics[key]:.3f} ({metrics[f'{key}_low']:.3f}–{metrics[f'{key}_high']:.3f})"


def trial_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """The table of networks: planted effects beside the null phantom."""
    null = {trial.title: imaging_metrics(run_trial(storage, cases, trial, seed)) for trial in NULL_TRIALS}
    yield "| network | figure | patients | planted effects | labels drawn free of the images |"
    yield "| --- | --- | ---: | --- | --- |"
    for trial in TRIALS:
        metrics = imaging_metrics(run_trial(storage, cases, trial, seed))
        kind = "AUC" if "auc" in metrics else "C-index"
        free = figure(null[trial.title]) if trial.title in null else "–"
        yield f"| {trial.title} | {kind} | {metrics['patients']:.0f} | {figure(metrics)} | {free} |"


def risk_group_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """The paper's Table 2: each fold and their mean, for both masks."""
    yield "| mask | fold | patients (high) | " + " | ".join(name.replace("_", " ") for name in FIGURES) + " |"
    yield "| --- | --- | --- |" + " ---: |" * len(FIGURES)
    for trial in TRIALS:
        if trial.architecture != "risk_group":
            continue
        found = run_trial(storage, cases, trial, seed)
        named = found.assign(outcome=found["outcome"].map({0: "low", 1: "high"}), fold=found["fold"] + 1)
        for row in fold_figures(named).to_dict("records"):
            cells = " | ".join(f"{row[name]:.3f}" for name in FIGURES)
            yield f"| {trial.title.split(', ')[1]} | {row['fold']} | {row['patients']} ({row['high']}) | {cells} |"


def feature_rows(storage: Storage, cases: Sequence[CaseRef], parameters: ExtractParameters) -> pd.DataFrame:
    """Return the radiomic features of cases."""
    rows = []
    for case in cases:
        extract_case(storage, case, parameters)
        rows.append(read_row(storage, CaseKeys(case).features).values)
    return pd.DataFrame(rows, index=pd.Index([case.id for case in cases], name="case_id"), dtype=float)


def deep_rows(storage: Storage, cases: Sequence[CaseRef], parameters: DeepParameters, *, study: str) -> pd.DataFrame:
    """Return the deep features of cases that a study reads."""
    parts = []
    for case in cases:
        result = extract_deep(storage, DeepRequest(case=case, parameters=parameters))
        parts.append(pd.read_parquet(io.BytesIO(storage.read_bytes(result.key))))
    table = pd.concat(parts).astype(float)
    return table[deep_columns(study, table.columns)]


def grading_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """The grading study on radiomics, on deep features out of fold, and on both."""
    radiomics = feature_rows(
        storage, cases, ExtractParameters(sequences=(Mri.T1, Mri.T1C, Mri.T2), regions=(Region.TC, Region.WT))
    )
    network = next(trial for trial in TRIALS if trial.title == GRADE["patch", True]).model
    deep = deep_rows(storage, cases, DeepParameters(sequences=(), networks=(network,)), study=grading.NAME)
    labels = grading.read_labels(participants(seed, null=False), radiomics.index)
    yield "| features of the grading study | columns | AUC | AUC, permuted labels |"
    yield "| --- | ---: | --- | --- |"
    both = pd.concat([radiomics, deep], axis=1)
    for title, table in (("radiomics", radiomics), ("deep, out of fold", deep), ("both", both)):
        result = grading.run(table, labels, seed=seed, parameters=grading.Parameters(folds=3, permutations=1))
        permuted = figure(result.metrics, "permuted_auc")
        yield f"| {title} | {table.shape[1]} | {figure(result.metrics)} | {permuted} |"


def leak_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """Deep features out of fold of a network that learnt labels free of the images: what they tell of these labels."""
    trial = next(trial for trial in NULL_TRIALS if trial.title == GRADE["patch", True])
    run_trial(storage, cases, trial, seed)
    deep = deep_rows(storage, cases, DeepParameters(sequences=(), networks=(trial.model,)), study=grading.NAME)
    labels = grading.read_labels(participants(seed, null=True), deep.index)
    result = grading.run(deep, labels, seed=seed, parameters=grading.Parameters(folds=3, permutations=0))
    yield (
        "Were a patient's label to leak into his deep features, a network of labels drawn free of the images would "
        f"show it: the grading study on its features, out of fold, has AUC {figure(result.metrics)}."
    )


def atrx_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """The nine imaging models of the ATRX study."""
    radiomics = feature_rows(
        storage, cases, ExtractParameters(sequences=(Mri.T1C, Mri.FLAIR), regions=(Region.ED, Region.ET, Region.WT))
    )
    deep = deep_rows(storage, cases, DeepParameters(), study=atrx.NAME)
    clinic = participants(seed, null=False)
    table = pd.concat([radiomics, deep], axis=1)
    labels = atrx.read_labels(clinic, table.index)
    parameters = atrx.Parameters(folds=3, inner_folds=3, lasso_folds=5, permutations=1, bootstraps=0)
    result = atrx.run(table, labels, seed=seed, parameters=parameters)
    performance = result.more_tables["performance"]
    shuffled = result.more_tables["permuted_models"].set_index("model")
    yield "| ATRX model | AUC, out of fold | AUC, permuted labels |"
    yield "| --- | --- | --- |"
    for row in performance[performance["part"] == "cv"].to_dict("records"):
        name = str(row["model"])
        said = shuffled.loc[name] if name in shuffled.index else None
        free = "–" if said is None else f"{said['auc']:.3f} ({said['low']:.3f}–{said['high']:.3f})"
        yield f"| {name} | {row['auc']:.3f} ({row['auc_low']:.3f}–{row['auc_high']:.3f}) | {free} |"


def risk_cohort(storage: Storage, name: str, cases: Sequence[CaseRef], model: str, clinic: pd.DataFrame) -> StudyCohort:
    """Return the risk that a network says of patients whom it had not seen, with their clinical table."""
    risk = deep_rows(storage, cases, DeepParameters(sequences=(), networks=(model,)), study=diffusion.NAME)
    return StudyCohort(name, risk, clinic.set_index(clinic["participant_id"].str.removeprefix("sub-")), model)


def signature_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """The diffusion study on its network's risk: out of fold, in a second cohort, and where nothing is to be found."""
    strangers = lay_cohort(storage, ELSEWHERE, cases=CASES, voxel_mm=VOXEL_MM, seed=seed + 1)
    parameters = diffusion.Parameters(folds=3, internal_share=0.0)
    found = {}
    for trials in (TRIALS, NULL_TRIALS):
        trial = next(trial for trial in trials if trial.architecture == "diffusion_survival")
        run_trial(storage, cases, trial, seed, final=not trial.null)
        home = risk_cohort(storage, COHORT, cases, trial.model, participants(seed, null=trial.null))
        others = {}
        if not trial.null:
            clinic = participants(seed + 1, null=False)
            others[ELSEWHERE] = risk_cohort(storage, ELSEWHERE, strangers, trial.model, clinic)
        found[trial.null] = diffusion.run(home, others, parameters=parameters, seed=seed).metrics
    columns = {
        "planted effects, out of fold": (found[False], "cv"),
        "planted effects, a second cohort": (found[False], f"validation_{ELSEWHERE}"),
        "labels drawn free of the images": (found[True], "cv"),
    }
    yield "| signature of diffusion maps | " + " | ".join(columns) + " |"
    yield "| --- |" + " --- |" * len(columns)
    for title, write in SIGNATURE_ROWS.items():
        yield f"| {title} | " + " | ".join(write(metrics, part) for metrics, part in columns.values()) + " |"
    yield ""
    yield (
        f"Cut-off by X-tile on the training patients: {found[False]['cutoff']:.2f}, unchanged in the others. With "
        f"shuffled follow-up the signature's C-index is {figure(found[False], 'permuted_c_index')}."
    )


def _p(name: str) -> Callable[[Mapping[str, float], str], str]:
    return lambda metrics, part: f"{metrics[f'{part}_{name}']:.2g}" if f"{part}_{name}" in metrics else "–"


def _limits(name: str) -> Callable[[Mapping[str, float], str], str]:
    return lambda metrics, part: figure(metrics, f"{part}_{name}") if f"{part}_{name}" in metrics else "–"


def _pair(name: str) -> Callable[[Mapping[str, float], str], str]:
    def write(metrics: Mapping[str, float], part: str) -> str:
        named = [f"{part}_nomogram_{name}_{model}" for model in ("clinical", "integrated")]
        return " → ".join(f"{metrics[key]:.1f}" for key in named if key in metrics) or "–"

    return write


SIGNATURE_ROWS: Mapping[str, Callable[[Mapping[str, float], str], str]] = {
    "patients (deaths)": lambda m, part: f"{m[f'{part}_patients']:.0f} ({m[f'{part}_deaths']:.0f})",
    "C-index of the signature": _limits("c_index"),
    "hazard ratio, high against low risk": _limits("hazard_ratio"),
    "log-rank P": _p("logrank_p"),
    "weighted log-rank P (ρ = 1)": _p("weighted_logrank_p"),
    "C-index, clinical nomogram": _limits("nomogram_c_index_clinical"),
    "C-index, nomogram with the signature": _limits("nomogram_c_index_integrated"),
    "difference": _limits("nomogram_c_index_difference"),
    "AIC, clinical → with the signature": _pair("aic"),
    "NRI at 24 months": _limits("nomogram_nri_24"),
}


def highlighted_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """Means of each map where the survival network looked, by the risk that the unseen fold said; pictures beside."""
    trial = next(trial for trial in TRIALS if trial.architecture == "diffusion_survival")
    said = run_trial(storage, cases, trial, seed).set_index("case_id")
    rows, shares, pictures = {}, [], {}
    for case in cases:
        if case.id not in said.index:
            continue
        found = explain_case(storage, ExplainRequest(case=case, model=unseen_network(storage, trial.model, case)))
        rows[case.id], pictures[case.id] = found.means, found.overlay
        shares.append(np.nan if found.share_in_tumour is None else found.share_in_tumour)
    means = pd.DataFrame.from_dict(rows, orient="index", dtype=float)
    group = (said["risk_score"] >= 0).map({False: "low risk", True: "high risk"}).reindex(means.index)
    table = compare_highlighted(means, group, groups=("low risk", "high risk"))
    storage.write_bytes(
        picture_key("highlighted"), draw_highlighted(table, means, group, units=("", "µm²/ms", "µm²/ms", "µm²/ms"))
    )
    highest = pictures[said["risk_score"].idxmax()]
    if highest is not None:
        storage.write_bytes(picture_key("overlay"), storage.read_bytes(highest))
    yield "| map | group | patients | median (quartiles) | whiskers | P |"
    yield "| --- | --- | ---: | --- | --- | ---: |"
    for row in table.to_dict("records"):
        middle = f"{row['median']:.3f} ({row['q1']:.3f}–{row['q3']:.3f})"
        whiskers = f"{row['low_whisker']:.3f} to {row['high_whisker']:.3f}"
        yield f"| {row['map']} | {row['group']} | {row['patients']} | {middle} | {whiskers} | {row['p']:.3g} |"
    yield ""
    yield f"Of the maps' sum, {np.nanmedian(shares):.0%} lies inside the tumour (median of {len(shares)} patients)."


def sanity_lines(storage: Storage, cases: Sequence[CaseRef], seed: int) -> Iterator[str]:
    """Where the grade network looks: trained, with random weights, and by chance; each patient by an unseen fold."""
    trial = next(trial for trial in TRIALS if trial.title == GRADE["patch", True])
    run_trial(storage, cases, trial, seed)
    found: dict[str, list[float]] = {"trained": [], "random weights": [], "patch as a whole": []}
    alike = []
    for case in cases:
        folder = unseen_network(storage, trial.model, case)
        card, network = load_network(storage, folder, ImagingSpec, build_network)
        torch.manual_seed(seed)
        untrained = build_network(card.spec).eval().requires_grad_(requires_grad=False)
        volumes = read_volumes(storage, case, card.spec)
        made = prepare_input(card.spec, volumes.images, volumes.brain, volumes.labels)
        tumour = region_mask(sitk.GetArrayViewFromImage(volumes.labels), Region.WT)
        whole = np.ones(made.values.shape[1:], np.float32)
        maps = {
            "trained": patient_activation(network, card.spec, made, volumes.labels, target="class"),
            "random weights": patient_activation(untrained, card.spec, made, volumes.labels, target="class"),
            "patch as a whole": lay_back(whole, made.grids[0], volumes.labels),
        }
        arrays = {name: sitk.GetArrayFromImage(image) for name, image in maps.items()}
        for name, values in arrays.items():
            if values.any():
                found[name].append(float(values[tumour].sum() / values.sum()))
        if arrays["trained"].any() and arrays["random weights"].any():
            seen = arrays["patch as a whole"] > 0
            alike.append(float(np.corrcoef(arrays["trained"][seen], arrays["random weights"][seen])[0, 1]))
    yield "| map of the grade network (patch, SE) | patients with a map | share of its sum inside the tumour, median |"
    yield "| --- | ---: | ---: |"
    for name, shares in found.items():
        yield f"| {name} | {len(shares)} | {np.median(shares) if shares else float('nan'):.2f} |"
    yield ""
    yield f"Correlation of both maps, trained and random: {np.median(alike):.2f} (median of {len(alike)} patients)."


def part_key(name: str) -> str:
    """Key of what a part found."""
    return f"experiments/imaging/{name}.json"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="imaging", description="What imaging networks find on a phantom")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="only this one; others as they were found")
    parser.add_argument(
        "--keep", action="store_true", help="measure nothing: write the page from what earlier runs left"
    )
    parser.add_argument("--dry", action="store_true", help="write no page")
    arguments = parser.parse_args()
    quiet_libraries()
    storage, seed = open_storage(), read_value(None, "seed", default=0)
    chosen = [] if arguments.keep else list(arguments.part or PARTS)
    cases = lay_cohort(storage, COHORT, cases=CASES, voxel_mm=VOXEL_MM, seed=seed) if chosen else []
    for name in chosen:
        started = time.process_time()
        lines = list(PARTS[name](storage, cases, seed))
        spent = time.process_time() - started
        storage.write_text(part_key(name), json.dumps({"seed": seed, "cpu_seconds": spent, "lines": lines}, indent=2))
        print(f"-- {name}, {spent:.0f} s of CPU\n" + "\n".join(lines), flush=True)
    if arguments.dry:
        return
    conditions = (
        f"{CASES} phantom patients at {VOXEL_MM:g} mm, seed {seed}, laid by their true poses, true masks; ResNets of "
        f"width {VOLUME['width']} and {MAPS['width']} (the papers': 64) from random weights, {LEARNT['epochs']} and "
        f"{MAPS['epochs']} epochs, {LEARNT['folds']} folds by patient, the last epoch counts. Planted: FA of the core "
        f"{EFFECTS.tumour_fa['low']} at low and {EFFECTS.tumour_fa['high']} at high risk."
    )
    page = [conditions]
    for name in PARTS:
        known = json.loads(storage.read_text(part_key(name))) if storage.exists(part_key(name)) else None
        page += ["", *(known["lines"] if known is not None and known["seed"] == seed else [f"{name}: not run."])]
    PICTURES.mkdir(exist_ok=True)
    for name in ("highlighted", "overlay"):
        if storage.exists(picture_key(name)):
            (PICTURES / f"{name}.png").write_bytes(storage.read_bytes(picture_key(name)))
    write_section(PAGE, "phantom", page)


def picture_key(name: str) -> str:
    """Key of a picture for the page."""
    return f"experiments/imaging/{name}.png"


PARTS: Mapping[str, Callable[[Storage, Sequence[CaseRef], int], Iterator[str]]] = {
    "networks": trial_lines,
    "table-2": risk_group_lines,
    "grading": grading_lines,
    "leak": leak_lines,
    "atrx": atrx_lines,
    "signature": signature_lines,
    "highlighted": highlighted_lines,
    "sanity": sanity_lines,
}


if __name__ == "__main__":
    main()

"""What the report says about itself: where the data come from, how it was made, and what it does not show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.reporting.sources import CohortState, StudyOutputs
from pipelines.reporting.tables import UNKNOWN, Table
from services.shared.manifest import Manifest

HASH_SHOWN = 12
_ATLASES = {
    "icbm152": "MNI ICBM152 2009a symmetric (Fonov et al., NeuroImage 2011); © McConnell Brain Imaging Centre, McGill "
    "University; may be used, copied, changed and passed on with its notice",
    "sri24": "SRI24 (Rohlfing et al., Hum Brain Mapp 2010); Creative Commons Attribution-ShareAlike 3.0",
}


@dataclass(frozen=True)
class Banner:
    """Something a reader must not miss."""

    title: str
    text: str


def banners(state: CohortState) -> list[Banner]:
    """Return what must stand above everything else."""
    found = []
    if state.phantom is not None:
        if state.phantom.null:
            text = (
                "Every patient, image and outcome was computed, and outcomes were drawn free of the images (null "
                "phantom): nothing can be learnt here, and a study that finds something is wrong."
            )
        else:
            text = (
                "Every patient, image and outcome was computed, with effects that were planted on purpose. Figures "
                "show that the software recovers what is there; they say nothing about patients."
            )
        found.append(Banner("Simulated cohort, no patients", text))
    found.append(Banner("For research only", "Not a medical device; not for decisions about a patient."))
    return found


def facts(state: CohortState, studies: Sequence[StudyOutputs]) -> list[tuple[str, str]]:
    """Return the figures of the header."""
    found: list[tuple[str, str]] = []
    if state.everyone is not None and state.members is not None:
        found.append(("Patients in the cohort", str(len(state.everyone.cases))))
        found.append(("Patients for the studies", str(len(state.members.cases))))
    else:
        found.append(("Input", "a table of features"))
    found.append(("Studies", ", ".join(study.name for study in studies) or "none yet"))
    found += [
        ("Data version", version)
        for version in sorted({s.model.training.features_sha256[:HASH_SHOWN] for s in studies})
    ]
    found += [("Seed", seed) for seed in sorted({str(s.parameters.get("seed", UNKNOWN)) for s in studies})]
    found += [("Software", version) for version in sorted({s.model.code_version.split(",")[0] for s in studies})]
    return found


def limits(state: CohortState, studies: Sequence[StudyOutputs]) -> list[str]:
    """Return what the figures do not show."""
    paragraphs = []
    if any(study.kind == "survival" for study in studies):
        paragraphs.append(
            "Survival studies: apparent figures are of the patients that the score was fitted to and flatter it; "
            "out-of-fold figures repeat the whole fit inside each training part. A validation cohort meets "
            "coefficients, scaling and cut-off unchanged. Intervals resample patients and keep the model as it is, so "
            "they do not tell how another fit would differ."
        )
    classifying = [study for study in studies if study.kind == "classification"]
    if classifying:
        paragraphs.append(
            "Every fit (scaling, selection, tuning, calibration, threshold) was repeated inside the training part of "
            "each outer fold; a figure comes from predictions for patients whom its model had not seen. DeLong's "
            "interval treats the pooled out-of-fold predictions as independent of the training, so it is somewhat too "
            "narrow in small cohorts. No figure of theirs comes from another hospital."
        )
    small = [f"{s.name} {s.patients}" for s in studies if s.patients < 100]
    if small:
        paragraphs.append(
            f"Few patients ({', '.join(small)}): intervals are wide, the chosen features change from fold to fold, and "
            "calibration cannot be judged finely."
        )
    if any(finding.source == "expert" for finding in state.findings.values()):
        paragraphs.append(
            "Some or all regions are an expert's outlines; features from a network's outlines may differ."
        )
    return paragraphs


def method_tables(state: CohortState, studies: Sequence[StudyOutputs]) -> list[Table]:
    """Return where the data come from, parameters, versions, hashes, and the atlas."""
    tables = [
        _release_table(state),
        _data_table(studies),
        _parameter_table(state, studies),
        _version_table(state, studies),
    ]
    return [table for table in tables if table.rows]


def _release_table(state: CohortState) -> Table:
    release = state.release
    rows: list[tuple[str, str]] = []
    if release is not None:
        rows.append(("Release", release.importer))
        rows += [("Terms and citation", release.licence)] if release.licence else []
        rows += [(f"A value of {name}", scale) for name, scale in sorted(release.scale.items())]
        rows += [(f"File {name} (SHA-256)", digest) for name, digest in sorted(release.sources.items())]
        rows += [(f"Counted: {name.replace('_', ' ')}", str(count)) for name, count in sorted(release.counted.items())]
    return Table("Where the data come from", ("What", "Statement"), tuple(rows))


def _data_table(studies: Sequence[StudyOutputs]) -> Table:
    rows = []
    for study in studies:
        training = study.model.training
        stated = {
            "Patients": ", ".join(f"{count} {name}" for name, count in training.patients_by_class.items()),
            "Features (SHA-256)": training.features_sha256,
            "Outcomes (SHA-256)": training.labels_sha256,
            "Model (SHA-256)": study.package_sha256,
            "Code": study.model.code_version,
        }
        if study.model.platform:
            stated["A value of a feature"] = study.model.platform
        rows += [(study.name, name, value) for name, value in stated.items()]
    return Table("Which data and which model: equal hashes are equal content", ("Study", "What", "Value"), tuple(rows))


def _parameter_table(state: CohortState, studies: Sequence[StudyOutputs]) -> Table:
    rows: list[tuple[str, str, str]] = []
    if state.phantom is not None:
        stated = {**state.phantom.parameters, "seed": state.phantom.seed, "null": state.phantom.null}
        rows += [("simulate", name, _plain(value)) for name, value in stated.items()]
    for step, manifests in state.manifests.items():
        told: dict[str, Counter[str]] = {}
        for manifest in manifests.values():
            for name, value in manifest.parameters.items():
                told.setdefault(name, Counter())[_plain(value)] += 1
        for name, values in sorted(told.items()):
            text = (
                next(iter(values))
                if len(values) == 1
                else "; ".join(f"{v} ({n} cases)" for v, n in values.most_common())
            )
            rows.append((step, name, text))
    for study in studies:
        rows += [(f"study {study.name}", name, _plain(value)) for name, value in study.parameters.items()]
    return Table("Parameters, as they were used", ("Step", "Parameter", "Value"), tuple(rows))


def _version_table(state: CohortState, studies: Sequence[StudyOutputs]) -> Table:
    versions: dict[str, set[str]] = {}
    made: list[Manifest] = [m for manifests in state.manifests.values() for m in manifests.values()]
    for packages in (*(m.packages for m in made), *(s.model.packages for s in studies)):
        for name, version in packages.items():
            versions.setdefault(name, set()).add(version)
    rows = [(name, ", ".join(sorted(found))) for name, found in sorted(versions.items(), key=lambda v: v[0].lower())]
    networks = sorted({f.model_sha256 for f in state.findings.values() if f.model_sha256})
    rows += [("Segmentation network (SHA-256)", digest) for digest in networks]
    rows += [("Atlas", text) for text in atlases(state)]
    return Table("Software and atlas", ("What", "Version or licence"), tuple(rows))


def atlases(state: CohortState) -> list[str]:
    """Return source and licence of each atlas that cases were brought to."""
    names = {str(m.parameters.get("atlas", "")).split(" ")[0] for m in state.manifests["prepare"].values()} - {""}
    return [_ATLASES.get(name, f"{name}: licence not known") for name in sorted(names)]


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)

"""What a study learns from, wherever it stands: feature store, imported release, or a table of one's own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.clients import connect
from pipelines.datasets.participants import read_participants
from pipelines.datasets.release import matrix_key, matrix_scale, read_matrix
from pipelines.ledger import STEPS, read_quarantine, usable_cases
from pipelines.modelling.held_out import held_out_cases
from pipelines.modelling.outputs import study_folder
from pipelines.modelling.survival_study import StudyCohort
from pipelines.modelling.tables import participant_rows, read_feature_table
from pipelines.studies import Study
from services.feature_store.contracts import EntityRow, HistoricalRequest
from services.feature_store.tables import scan_timestamps
from services.shared.cohort import read_cohort
from services.shared.errors import NotFound, TooFewCases
from services.shared.storage import Storage

RISK_GROUP_STUDY = "ferroptosis"


@dataclass(frozen=True)
class StudyInput:
    """What a classification learns from: features, class and clinical columns by case, and who is left out for what."""

    features: pd.DataFrame
    labels: pd.Series
    clinical: pd.DataFrame
    excluded: dict[str, str]

    def without_held_out(self, share: float) -> StudyInput:
        """Return what is left without the patients that are held out."""
        reasons = held_out_cases(map(str, self.features.index), share)
        kept = [label for label in self.features.index if str(label) not in reasons]
        return StudyInput(
            self.features.loc[kept], self.labels.loc[kept], self.clinical.loc[kept], self.excluded | reasons
        )


def is_released(storage: Storage, cohort: str) -> bool:
    """Return whether a cohort came with features, so that none have to be extracted from images."""
    return storage.exists(matrix_key(cohort, "features"))


def features_of_store(storage: Storage, cohort: str, name: str, module: Study, *, deep: bool = False) -> StudyInput:
    """Return a study's features as the feature store knew them at each patient's scan.

    Parameters
    ----------
    deep
        Whether deep features are taken beside the radiomic ones.

    Raises
    ------
    TooFewCases
        Where no case of the cohort has features.
    NotFound
        Where deep features are asked for and the cohort has none of this study.
    """
    members = read_cohort(storage, cohort).subset("study")
    excluded = {
        label: f"{step}: {problem['title']}"
        for step in STEPS
        for label, problem in read_quarantine(storage, cohort, step).items()
    }
    cases = [case.id for case in usable_cases(storage, members, steps=STEPS)]
    if not cases:
        raise TooFewCases("no case has features", case=cohort, step=name, remedy="run 'gliaflow extract' first")
    moments = scan_timestamps(members)
    rows = tuple(EntityRow(case_id=case, event_timestamp=moments[case].to_pydatetime()) for case in cases)
    kinds = ("radiomics", "deep") if deep else ("radiomics",)
    wanted = HistoricalRequest(cohort=cohort, rows=rows, names=tuple(f"{kind}_{name}" for kind in kinds))
    try:
        answer = connect("feature_store").historical_features(wanted)
    except NotFound as error:
        if deep and error.got == f"deep_{name}":
            error.remedy = "run 'gliaflow extract --deep' with this study's networks or sequences first"
        raise
    table = pd.DataFrame([row.features for row in answer.rows], index=pd.Index(cases, name="case_id"), dtype=float)
    return _with_outcome(table, members.participants, module, excluded)


def features_of_release(
    storage: Storage,
    cohort: str,
    module: Study,
    *,
    features: Path | None = None,
    participants: Path | None = None,
    risk_groups_of: str | None = None,
) -> StudyInput:
    """Return the features and classes of an imported release, or of a table with its clinical table.

    Parameters
    ----------
    features, participants
        Tables in place of the cohort's own.
    risk_groups_of
        A cohort whose ferroptosis study says who is at high risk.
    """
    table = read_matrix(storage, cohort, "features") if features is None else read_feature_table(features).features
    clinic = read_cohort(storage, cohort).participants if participants is None else read_participants(participants)
    if risk_groups_of is not None:
        groups = read_risk_groups(storage, risk_groups_of)
        table = table.loc[table.index.intersection(groups.index)]
        labels = clinic["participant_id"].str.removeprefix("sub-")
        clinic = clinic.assign(risk_group=labels.map(groups))
    return _with_outcome(table, clinic, module, {})


def read_risk_groups(storage: Storage, cohort: str) -> pd.Series:
    """Return the out-of-fold risk group, low or high, of each patient of a cohort with a finished ferroptosis study.

    Raises
    ------
    NotFound
        Where the study has not run on the cohort.
    """
    key = f"{study_folder(cohort, RISK_GROUP_STUDY)}/predictions.csv"
    if not storage.exists(key):
        raise NotFound(
            "the ferroptosis study has not run on this cohort",
            field=key,
            got=cohort,
            remedy=f"run 'gliaflow study {RISK_GROUP_STUDY} --cohort {cohort}' first",
        )
    table = pd.read_csv(io.StringIO(storage.read_text(key)), dtype={"case_id": str})
    return table[table["part"] == "cv"].set_index("case_id")["group"].sort_index()


def survival_cohort(
    storage: Storage,
    cohort: str,
    matrix: str,
    *,
    features: Path | None = None,
    participants: Path | None = None,
) -> StudyCohort:
    """Return a cohort's expression or features with follow-up and clinical columns, of its subset ``study``."""
    table = read_matrix(storage, cohort, matrix) if features is None else read_feature_table(features).features
    if participants is None:
        everyone = read_cohort(storage, cohort)
        clinic = everyone.subset("study").participants
        others = set(everyone.participants["participant_id"]) - set(clinic["participant_id"])
        table = table[~table.index.isin([label.removeprefix("sub-") for label in others])]
    else:
        clinic = read_participants(participants)
    scale = matrix_scale(storage, cohort, matrix) if features is None else ""
    if features is None:  # the cohort's own clinical table may hold patients without a matrix: the study counts them
        labels = clinic["participant_id"].str.removeprefix("sub-").rename("case_id")
        return StudyCohort(cohort, table, clinic.set_index(labels), scale)
    return StudyCohort(cohort, table, participant_rows(clinic, table.index), scale)


def survival_cohorts(storage: Storage, cohorts: Sequence[str], matrix: str) -> dict[str, StudyCohort]:
    """Return several cohorts by name."""
    return {name: survival_cohort(storage, name, matrix) for name in cohorts}


def _with_outcome(table: pd.DataFrame, clinic: pd.DataFrame, module: Study, excluded: dict[str, str]) -> StudyInput:
    return StudyInput(table, module.read_labels(clinic, table.index), participant_rows(clinic, table.index), excluded)

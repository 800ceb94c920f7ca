"""What a study learns from, wherever it stands: feature store, imported release, or a table of one's own."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from pipelines.clients import connect
from pipelines.datasets.participants import read_participants
from pipelines.datasets.release import matrix_key, matrix_scale, read_matrix
from pipelines.ledger import STEPS, Step, read_quarantine, usable_cases
from pipelines.modelling.held_out import held_out_cases
from pipelines.modelling.makers import PLATFORM, maker_columns, state_makers
from pipelines.modelling.outputs import study_folder
from pipelines.modelling.survival_study import StudyCohort
from pipelines.modelling.tables import participant_rows, read_feature_table
from pipelines.studies import Study, kind_of, survival_study
from services.feature_store.contracts import EntityRow, HistoricalRequest
from services.feature_store.studies import DEEP, STUDY_DEEP, study_kinds, study_service
from services.feature_store.tables import scan_timestamps
from services.shared.cohort import read_cohort
from services.shared.errors import InvalidValue, NotFound, TooFewCases
from services.shared.storage import Storage

RISK_GROUP_STUDY = "ferroptosis"


@dataclass(frozen=True)
class StudyInput:
    """What a classification learns from: features, class and clinical columns by case, and who is left out for what.

    ``makers`` says who made the deep features, by column of the feature store.
    """

    features: pd.DataFrame
    labels: pd.Series
    clinical: pd.DataFrame
    excluded: dict[str, str]
    makers: dict[str, str] = field(default_factory=dict)

    def without_held_out(self, share: float) -> StudyInput:
        """Return what is left without the patients that are held out."""
        reasons = held_out_cases(map(str, self.features.index), share)
        kept = [label for label in self.features.index if str(label) not in reasons]
        return StudyInput(
            self.features.loc[kept],
            self.labels.loc[kept],
            self.clinical.loc[kept],
            self.excluded | reasons,
            self.makers,
        )


def is_released(storage: Storage, cohort: str) -> bool:
    """Return whether a cohort came with features, so that none have to be extracted from images."""
    return storage.exists(matrix_key(cohort, "features"))


def reads_store(storage: Storage, cohort: str, name: str, *, features: Path | None = None, deep: bool = False) -> bool:
    """Return whether a study takes a cohort's features from the feature store: where it has images and no table.

    Raises
    ------
    InvalidValue
        Where deep features are asked for beside a table, which holds whatever there is to learn from.
    """
    tables = {
        "--features": features is not None,
        "the expression of genes": kind_of(name) == "survival" and survival_study(name).MATRIX == "expression",
        "a release with features": is_released(storage, cohort),
    }
    table = next((what for what, given in tables.items() if given), None)
    if table is not None and deep:
        raise InvalidValue(
            "deep features come from images, and this cohort's features from a table",
            case=cohort,
            step=name,
            field="deep",
            expected="a cohort of images, extracted with 'gliaflow extract --deep'",
            got=table,
            remedy="leave out --deep, or import the images as a cohort of their own",
        )
    return table is None


@dataclass(frozen=True)
class StoredFeatures:
    """What the feature store holds for a study of a cohort.

    Parameters
    ----------
    table
        Features as they were known at each patient's scan, by case.
    participants
        Clinical table of the patients who are studied.
    excluded
        Why a step dropped a case, by case.
    makers
        Who made the deep features, by column of the feature store; a cohort's are of one set of networks.
    """

    table: pd.DataFrame
    participants: pd.DataFrame
    excluded: dict[str, str]
    makers: dict[str, str]


def read_store(storage: Storage, cohort: str, name: str, *, deep: bool) -> StoredFeatures:
    """Return a study's features as the feature store knew them at each patient's scan.

    Parameters
    ----------
    deep
        Whether deep features are taken beside the radiomic ones.

    Raises
    ------
    TooFewCases
        Where no case of the cohort has features.
    InvalidValue
        Where deep features are asked for of a study that takes none.
    NotFound
        Where the feature store has none for this study; or deep features are asked for and the cohort has none of it.
    """
    kinds = study_kinds(name, deep=deep)
    if deep and DEEP not in kinds:
        raise InvalidValue(
            "the study takes no deep features of the feature store",
            case=cohort,
            step=name,
            field="deep",
            expected=f"one of {', '.join(STUDY_DEEP)}",
            got=name,
            remedy="leave out --deep",
        )
    if not kinds:
        networks = study_kinds(name, deep=True)
        raise NotFound(
            "this platform extracts no radiomic features for the study",
            case=cohort,
            step=name,
            expected="what a network says of the images" if networks else "a table of features",
            got="deep features were not asked for" if networks else "a cohort without a table",
            remedy=(
                "train the study's network ('gliaflow train'), name it in the section extract_deep, run 'gliaflow "
                "extract --deep', then the study with --deep; or give a table with --features"
                if networks
                else "give a table with --features, or import a release that has one"
            ),
        )
    members = read_cohort(storage, cohort).subset("study")
    steps: tuple[Step, ...] = (*STEPS, "deep") if deep else STEPS
    excluded = {
        label: f"{step}: {problem['title']}"
        for step in steps
        for label, problem in read_quarantine(storage, cohort, step).items()
    }
    cases = usable_cases(storage, members, steps=STEPS)
    if not cases:
        raise TooFewCases("no case has features", case=cohort, step=name, remedy="run 'gliaflow extract' first")
    moments = scan_timestamps(members)
    rows = tuple(EntityRow(case_id=case.id, event_timestamp=moments[case.id].to_pydatetime()) for case in cases)
    wanted = HistoricalRequest(cohort=cohort, rows=rows, names=tuple(study_service(name, kind) for kind in kinds))
    try:
        answer = connect("feature_store").historical_features(wanted)
    except NotFound as error:
        if deep and error.got == study_service(name, DEEP):
            error.remedy = "run 'gliaflow extract --deep' with this study's networks or sequences first"
        raise
    index = pd.Index([case.id for case in cases], name="case_id")
    columns = list(answer.rows[0].features)
    names = maker_columns(columns)
    makers = {name: str(row.features[name]) for row in answer.rows for name in names if row.features.get(name)}
    values = [column for column in columns if column not in names]
    table = pd.DataFrame([row.features for row in answer.rows], index=index, columns=values, dtype=float)
    return StoredFeatures(table, members.participants, excluded, makers)


def features_of_store(
    storage: Storage,
    cohort: str,
    name: str,
    module: Study,
    *,
    deep: bool = False,
    risk_groups_of: str | None = None,
) -> StudyInput:
    """Return what a classification learns from in the feature store; see :func:`read_store`."""
    found = read_store(storage, cohort, name, deep=deep)
    dropped = {label: reason for label, reason in found.excluded.items() if label not in found.table.index}
    table, clinic = _with_risk_groups(storage, found.table, found.participants, risk_groups_of)
    return replace(_with_outcome(table, clinic, module, dropped), makers=found.makers)


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
    return _with_outcome(*_with_risk_groups(storage, table, clinic, risk_groups_of), module, {})


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


def _with_risk_groups(
    storage: Storage, table: pd.DataFrame, clinic: pd.DataFrame, cohort: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return features of the patients whose risk group a cohort's study tells, and the clinical table with it."""
    if cohort is None:
        return table, clinic
    groups = read_risk_groups(storage, cohort)
    labels = clinic["participant_id"].str.removeprefix("sub-")
    return table.loc[table.index.intersection(groups.index)], clinic.assign(risk_group=labels.map(groups))


def survival_cohort(
    storage: Storage,
    cohort: str,
    name: str,
    *,
    features: Path | None = None,
    participants: Path | None = None,
    deep: bool = False,
) -> StudyCohort:
    """Return what a survival study takes of a cohort, of its subset ``study``: features or expression, and follow-up.

    The feature store gives the features where the cohort came without a table of them; see :func:`read_store`.
    """
    matrix = survival_study(name).MATRIX
    if reads_store(storage, cohort, name, features=features, deep=deep):
        found = read_store(storage, cohort, name, deep=deep)
        silent = found.table.index[found.table.isna().all(axis=1)]
        reasons = dict.fromkeys(map(str, silent), "the feature store has no value of the study's features")
        reasons |= found.excluded
        kept = found.table.index.difference(silent)
        excluded = {label: reason for label, reason in reasons.items() if label not in kept}
        scale = state_makers(found.makers, map(str, found.table)) or PLATFORM
        return StudyCohort(cohort, found.table, _by_case(found.participants), scale, excluded)
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
        return StudyCohort(cohort, table, _by_case(clinic), scale)
    return StudyCohort(cohort, table, participant_rows(clinic, table.index), scale)


def _by_case(clinic: pd.DataFrame) -> pd.DataFrame:
    return clinic.set_index(clinic["participant_id"].str.removeprefix("sub-").rename("case_id"))


def _with_outcome(table: pd.DataFrame, clinic: pd.DataFrame, module: Study, excluded: dict[str, str]) -> StudyInput:
    return StudyInput(table, module.read_labels(clinic, table.index), participant_rows(clinic, table.index), excluded)

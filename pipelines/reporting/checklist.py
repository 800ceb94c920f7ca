"""The TRIPOD+AI checklist of a study: every item, and where the page answers it.

Collins et al., BMJ 2024;385:e078378: 27 items in 52 parts, here in our own words. What the page does not tell is
called not reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.reporting.sources import CohortState, StudyOutputs
from pipelines.reporting.tables import Table

SOURCE = "BMJ 2024;385:e078378"
SILENT = "not reported"

ITEMS: Sequence[tuple[str, str]] = (
    ("1", "Title: development or evaluation, population, outcome"),
    ("2", "Structured abstract"),
    ("3a", "Healthcare context and reason for the model"),
    ("3b", "Target population and intended use"),
    ("3c", "Known health inequalities"),
    ("4", "Objectives"),
    ("5a", "Sources of the data, and how well they represent the population"),
    ("5b", "Dates of the data"),
    ("6a", "Setting and centres"),
    ("6b", "Eligibility"),
    ("6c", "Treatments"),
    ("7", "Preparation of the data"),
    ("8a", "Outcome, and the time of prediction"),
    ("8b", "Who assessed the outcome"),
    ("8c", "Blinding of the outcome's assessment"),
    ("9a", "Choice of initial predictors"),
    ("9b", "Definition of the predictors"),
    ("9c", "Who assessed the predictors"),
    ("10", "Sample size"),
    ("11", "Missing data"),
    ("12a", "Use and partition of the data"),
    ("12b", "Handling of the predictors"),
    ("12c", "Type of model, building, tuning, internal validation"),
    ("12d", "Heterogeneity across centres"),
    ("12e", "Measures of performance"),
    ("12f", "Updating of the model"),
    ("12g", "How predictions were calculated in an evaluation"),
    ("13", "Class imbalance"),
    ("14", "Approaches to fairness"),
    ("15", "Output of the model, and thresholds"),
    ("16", "Differences between development and evaluation data"),
    ("17", "Ethical approval and consent"),
    ("18a", "Funding"),
    ("18b", "Conflicts of interest"),
    ("18c", "Protocol"),
    ("18d", "Registration"),
    ("18e", "Sharing of data"),
    ("18f", "Sharing of code"),
    ("19", "Involvement of patients and the public"),
    ("20a", "Flow of participants, outcomes and follow-up"),
    ("20b", "Characteristics of participants, with missing values"),
    ("20c", "Comparison of evaluation with development data"),
    ("21", "Participants and events in each analysis"),
    ("22", "Full specification of the model"),
    ("23a", "Performance with confidence intervals, and in subgroups"),
    ("23b", "Heterogeneity of performance across centres"),
    ("24", "Results of updating"),
    ("25", "Interpretation, also of fairness"),
    ("26", "Limitations"),
    ("27a", "Use with poor or missing input"),
    ("27b", "Interaction and expertise needed in use"),
    ("27c", "Next steps, generalisability"),
)


def checklist(state: CohortState, study: StudyOutputs) -> Table:
    """Return the checklist of a study; items that the page does not answer are marked."""
    answers = _common(state, study)
    answers |= _survival(study) if study.kind == "survival" else _classification()
    answers |= _data(state)
    return checklist_table(study.name, answers)


def checklist_table(study: str, answers: Mapping[str, str]) -> Table:
    """Return every item with its answer; one without an answer says so."""
    rows = tuple((item, topic, answers.get(item, SILENT)) for item, topic in ITEMS)
    silent = tuple(i for i, row in enumerate(rows) if row[2].startswith(SILENT))
    caption = f"Study {study}: TRIPOD+AI ({SOURCE}), {len(rows) - len(silent)} of {len(rows)} parts answered"
    return Table(caption, ("Item", "Topic", "Where"), rows, flagged=silent)


def _common(state: CohortState, study: StudyOutputs) -> dict[str, str]:
    here = f"Study {study.name}"
    return {
        "1": f"{here}: heading and first paragraph",
        "2": "in part: Results at a glance; there is no structured abstract",
        "3a": f"in part: the paper cited in {here}, Beside the paper" if study.paper else SILENT,
        "3b": f"{here}: first paragraph (intended use)",
        "4": f"{here}: heading and first paragraph; the model is developed here",
        "6b": "in part: Patients, flow: who was left out for which reason",
        "7": "Images: quality; Methods: parameters of each step" if state.manifests["prepare"] else SILENT,
        "9a": "every feature of the table given; Methods: parameters",
        "9b": f"in part: names of the features in {here}; Methods: versions of the software that computed them",
        "9c": "does not apply: predictors are computed or measured by a machine",
        "10": "all patients at hand were studied; no size was calculated beforehand",
        "11": "features: median of the training part; outcome: patients without one are left out and counted in "
        "Patients, flow",
        "12b": "z-scores by mean and standard deviation of the training part alone; selection inside each fold",
        "12c": f"{here}: outer folds; Methods: parameters",
        "12f": "no model is updated",
        "18f": "Methods: versions; the code that made this page makes it again from the same data",
        "20a": "Patients: flow",
        "20b": "Patients: characteristics" if state.members is not None else "not reported: there is no clinical table",
        "21": "Results at a glance; Methods: patients by class",
        "24": "does not apply: no model is updated",
        "25": f"{here}: the paragraph that judges the figures; fairness is not reported",
        "26": "Methods and limits",
        "27a": "a missing feature takes the training median; a prediction names features outside the training range",
    }


def _classification() -> dict[str, str]:
    return {
        "8a": "in part: the study's heading; how the outcome was assessed is not reported",
        "12a": "outer and inner folds, stratified by class; a patient is tested by a model that did not see it",
        "12e": "Results at a glance: AUC, sensitivity, specificity, accuracy, Brier score; calibration",
        "12g": "does not apply: no other cohort is evaluated",
        "13": "classes are as found, folds are stratified, nothing is re-weighted: confusion matrix",
        "15": "probability of the positive class; threshold from the inner folds: Scores by class",
        "16": "does not apply: no other cohort is evaluated",
        "20c": "does not apply: no other cohort is evaluated",
        "22": "features of the final model; the model package, named by its hash in Methods",
        "23a": "in part: Results at a glance, ROC curve, calibration; subgroups are not reported",
    }


def _survival(study: StudyOutputs) -> dict[str, str]:
    others = [part.removeprefix("validation_") for part in study.parts if part.startswith("validation_")]
    answers = {
        "8a": "overall survival in months, death the event; time starts where the release's follow-up starts",
        "8b": "does not apply: death needs no judgement",
        "8c": "does not apply: death needs no judgement",
        "12a": "the model is fitted on the training cohort; event-stratified folds repeat the whole fit inside each "
        "training part" + ("; validation cohorts are never seen by a fit" if others else ""),
        "12e": "Results at a glance: C-index, AUC by time, hazard ratio; calibration by time",
        "13": "does not apply: time to event; folds are stratified by event",
        "15": "risk score, groups by a cut-off of the training cohort, survival probabilities by time",
        "22": "features of the final model; cut-off and baseline survival in the model package, named by its hash",
        "23a": "in part: Results at a glance, time-dependent AUC, calibration; subgroups are not reported",
    }
    if others:
        named = ", ".join(others)
        answers |= {
            "12d": f"in part: each validation cohort by itself ({named})",
            "12g": "coefficients, scaling and cut-off applied unchanged",
            "16": "in part: patients and deaths of each cohort in Results at a glance; platforms in Methods",
            "20c": "in part: patients, deaths and survival curves of each cohort",
            "23b": f"each validation cohort by itself ({named})",
        }
    else:
        answers |= dict.fromkeys(("12g", "16", "20c"), "does not apply: no other cohort is evaluated")
    return answers


def _data(state: CohortState) -> dict[str, str]:
    if state.phantom is not None:
        answers = dict.fromkeys(("6a", "6c", "8b", "8c", "17"), "does not apply: simulated patients")
        answers["5b"] = "does not apply: simulated patients"
        answers["5a"] = "simulated; parameters in Methods"
        answers["18e"] = "the same seed simulates the same data"
        return answers
    if state.release is not None:
        return {
            "5a": "Methods: where the data come from; how well they represent patients is not reported",
            "6a": "not reported: see the citation in Methods, where the data come from",
            "7": "Methods: what a value is; Patients: rows left out by the import",
            "17": "not reported: see the citation in Methods, where the data come from",
            "18e": "Methods: hashes, terms and citation of the release",
        }
    return {"18e": "in part: Methods: hashes of features and outcomes"}

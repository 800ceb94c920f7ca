"""RESULTS.md: what real experiments found, written from their metrics; no figure is typed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from pipelines.datasets.release import import_key
from pipelines.reporting.classification import judge, summarise
from pipelines.reporting.comparison import paper_table
from pipelines.reporting.optional_tables import optional_tables
from pipelines.reporting.patient_flow import anonymous, excluded_reasons
from pipelines.reporting.published import DIFFERENCES
from pipelines.reporting.report import overview_tables
from pipelines.reporting.sources import ReleaseStatement, StudyOutputs, read_studies
from pipelines.reporting.survival_section import judge_survival
from pipelines.reporting.tables import Table
from services.shared.storage import Storage
from tests.benchmarks.experiments import DATASETS, Experiment, Run, read_run

INTRODUCTION = """# Results on real patients

Written by `make results` from the `metrics.json` of each experiment; no figure is typed by hand. The data folder is
named by `GLIAFLOW_REAL_DATA`; each experiment imports public releases, runs the same flows as the command line, and
reads nothing else. `python -m tests.benchmarks results --only NAME` runs one of them.

Figures in brackets are 95 % limits. *Out of fold* figures come from predictions for patients whom their model had not
seen; *apparent* ones flatter. *Permuted* runs shuffle the outcomes: their interval should cover 0.5. The papers'
figures are of other patients and stand beside ours for orientation, with what differs."""

SHOWN_TABLES = ("Models compared", "Clinical against integrated nomogram", "Characteristics by risk group")
LONGEST = 40


def results_page(storage: Storage, experiments: Mapping[str, Experiment]) -> str:
    """Return the whole page: every experiment that storage holds results of, and why others are absent."""
    sections = [section for name, experiment in experiments.items() for section in _section(storage, name, experiment)]
    contents = [f"- [{experiment.title}](#{name})" for name, experiment in experiments.items()]
    return "\n\n".join([INTRODUCTION, "\n".join(contents), *sections]) + "\n"


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    align = ["---:" if i in table.numeric else "---" for i in range(len(table.headers))]
    rows = [table.headers, align, *table.rows]
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return f"{table.caption}.\n\n" + "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|").replace("<", "&lt;")


def _section(storage: Storage, name: str, experiment: Experiment) -> Iterator[str]:
    yield f'<a id="{name}"></a>\n\n## {experiment.title}'
    run = read_run(storage, name)
    if run is None:
        yield "Not run."
        return
    if run.problem:
        yield f"No result: {run.problem}"
        return
    (study,) = read_studies(storage, experiment.cohort, [experiment.study])
    judged = judge_survival(study, None) if study.kind == "survival" else judge(summarise(study), None)
    told = [f"`{key}: {value}`" for key, value in experiment.parameters.items()]
    told += [f"`{key}: {', '.join(files)}`" for key, files in experiment.files.items()]
    yield f"`{experiment.command}`" + (f" with {' and '.join(told)} in params.yaml" if told else "")
    yield judged[0].upper() + judged[1:]
    for table in overview_tables(storage, experiment.cohort, [experiment.study]):
        yield markdown_table(table)
    for table in _study_tables(study):
        yield markdown_table(table)
    beside = paper_table(study)
    if beside is not None and study.paper is not None:
        yield markdown_table(beside)
        yield f"Why they differ: {DIFFERENCES.get(name, '')} {study.paper.differs}".replace("  ", " ")
    yield _flow(study)
    yield "\n".join(_data(storage, experiment))
    yield _provenance(study, run)


def _study_tables(study: StudyOutputs) -> Iterator[Table]:
    from pipelines.reporting.survival_section import survival_tables

    found = survival_tables(study) if study.kind == "survival" else optional_tables(study)
    for table in found:
        if table.caption.startswith(SHOWN_TABLES) and len(table.rows) <= LONGEST:
            yield table


def _flow(study: StudyOutputs) -> str:
    told = [f"{study.patients} patients studied"]
    told += [f"{count} left out: {reason}" for reason, count in excluded_reasons(study.flow)]
    given, kept = study.flow.get("features_given"), len(study.model.columns)
    told.append(f"{kept} of {given} features in the model" if given is not None else f"{kept} features in the model")
    return f"Patients: {'; '.join(told)}."


def _data(storage: Storage, experiment: Experiment) -> Iterator[str]:
    yield "Data:"
    yield ""
    for cohort in (experiment.cohort, *experiment.validation):
        release = ReleaseStatement.model_validate_json(storage.read_text(import_key(cohort)))
        dropped = Counter(anonymous(reason, label) for label, reason in release.dropped.items())
        parts = [f"`{cohort}`: release {DATASETS[cohort].importer if cohort in DATASETS else release.importer}"]
        parts.append(f"{release.patients} patients")
        parts += [f"{count} rows left out ({reason})" for reason, count in sorted(dropped.items())]
        parts += [f"{name} are {scale}" for name, scale in sorted(release.scale.items())]
        yield f"- {', '.join(parts)}. {release.licence}".rstrip()


def _provenance(study: StudyOutputs, run: Run) -> str:
    training = study.model.training
    return (
        f"Seed {run.seed}; model `{study.package_sha256[:12]}`, features `{training.features_sha256[:12]}`, outcomes "
        f"`{training.labels_sha256[:12]}`; {study.model.code_version}; {run.seconds:.0f} s."
    )

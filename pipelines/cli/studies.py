"""Commands that learn from features, show what was learnt, and use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipelines.cli.app import CohortOption, ParamsOption, cohort_name, console, out, progress_bar
from services.shared.contracts import case_label
from services.shared.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Sequence


def study(
    name: Annotated[str, typer.Argument(help="Study, see the list below")],
    cohort: CohortOption = None,
    params: ParamsOption = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Table (Parquet or CSV) with one row a patient, in place of the feature store; "
            "its name is then the default of --cohort"
        ),
    ] = None,
    participants: Annotated[Path | None, typer.Option(help="Clinical table of --features (CSV or TSV)")] = None,
    validation: Annotated[
        list[str] | None,
        typer.Option(help="Cohort that a survival study's signature is applied to, unchanged; several times if needed"),
    ] = None,
    risk_groups_of: Annotated[
        str | None, typer.Option(help="Cohort whose ferroptosis study says who is at high risk (ferroptosis_imaging)")
    ] = None,
    deep: Annotated[  # noqa: FBT002
        bool,
        typer.Option(
            "--deep",
            help="Learn from what networks made too, from 'gliaflow extract --deep'; the risk of the "
            "diffusion-survival network is all that the diffusion study takes of a cohort's own images",
        ),
    ] = False,
) -> None:
    """Run a **study**: selection, model and cut-off in nested cross-validation, permuted outcomes, deployable model.

    Features come from the feature store, or from the tables of a cohort that was imported with them.

    Examples: `gliaflow study grading --features published.csv --participants clinic.csv --cohort published`;
    `gliaflow study ferroptosis --cohort tcga --validation freije --validation joo`;
    `gliaflow study diffusion --deep --cohort clinic --validation elsewhere`
    """
    from pipelines.flows.study import run_study
    from pipelines.parameters import read_section, read_value
    from pipelines.studies import parameters_of

    parameters = read_section(params, name, parameters_of(name))
    # A table of its own is a cohort of its own: its results must not take the place of another's.
    cohort = case_label(features.stem) if features is not None and cohort is None else cohort_name(cohort, params)
    with progress_bar(name.capitalize()) as progress:
        model = run_study(
            cohort,
            name,
            parameters,
            seed=read_value(params, "seed", default=0),
            features=features,
            participants=participants,
            validation=tuple(validation or ()),
            risk_groups_of=risk_groups_of,
            deep=deep,
            progress=progress,
        )
    print_figures(cohort, [name])
    console.print(f"study: model {model.model}/{model.version}", highlight=False)


def validate(
    model: Annotated[str, typer.Argument(help="Registered model: NAME, NAME/latest or NAME/VERSION")],
    cohort: CohortOption = None,
    params: ParamsOption = None,
    features: Annotated[Path | None, typer.Option(help="Table in place of the cohort's own features")] = None,
    participants: Annotated[Path | None, typer.Option(help="Clinical table of --features (CSV or TSV)")] = None,
    risk_groups_of: Annotated[
        str | None, typer.Option(help="Cohort whose ferroptosis study says who is at high risk (ferroptosis_imaging)")
    ] = None,
) -> None:
    """**Validate** a registered model on another cohort: coefficients, threshold and cut-off stay as they are.

    Example: `gliaflow validate ferroptosis-tcga --cohort freije`
    """
    from pipelines.flows.validate import validate_model
    from pipelines.parameters import read_value

    name = case_label(features.stem) if features is not None and cohort is None else cohort_name(cohort, params)
    with progress_bar("Validating") as progress:
        progress(0, 1, name)
        found = validate_model(
            model,
            name,
            seed=read_value(params, "seed", default=0),
            features=features,
            participants=participants,
            risk_groups_of=risk_groups_of,
        )
        progress(1, 1, name)
    table = Table("Figure", f"{found.model} on {found.cohort}", box=box.SIMPLE_HEAD)
    limits = ("_low", "_high")
    for figure, value in found.metrics.items():
        if not figure.endswith(limits):
            low, high = (found.metrics.get(figure + end) for end in limits)
            shown = f"{value:.4g}" if low is None or high is None else f"{value:.3f} [{low:.3f}–{high:.3f}]"
            table.add_row(figure, shown)
    out.print(table)
    console.print(f"validate: {found.model}/{found.version}, figures in {found.folder}", highlight=False)


def print_figures(cohort: str, studies: Sequence[str] | None = None) -> None:
    """Print the figures of finished studies."""
    from pipelines.reporting.report import overview_tables

    for shown in overview_tables(open_storage(), cohort, studies):
        table = Table(shown.headers[0], *(row[0] for row in shown.rows), box=box.SIMPLE_HEAD, caption=shown.caption)
        for figure, *values in zip(shown.headers[1:], *(row[1:] for row in shown.rows), strict=True):
            table.add_row(figure, *values)
        out.print(table)


def report(cohort: CohortOption = None, params: ParamsOption = None) -> None:
    """Write the **report**: one page with every figure, picture and dropped-out patient."""
    from pipelines.reporting.report import write_report

    storage = open_storage()
    name = cohort_name(cohort, params)
    paths = write_report(storage, name)
    out.print(paths.url, soft_wrap=True, highlight=False)


def predict(
    case: Annotated[str, typer.Argument(help="Case: COHORT/sub-ID, or sub-ID with --cohort")],
    model: Annotated[str, typer.Option(help="Registered model: NAME, NAME/latest or NAME/VERSION")] = "grading",
    cohort: CohortOption = None,
    params: ParamsOption = None,
) -> None:
    """**Predict** one patient's probability or risk score through the serving API, with the reasons."""
    from pipelines.predict import predict_case
    from services.shared.contracts import CaseRef

    folder, _, label = case.rpartition("/")
    reference = CaseRef(cohort=folder or cohort_name(cohort, params), id=label.removeprefix("sub-"))
    found = predict_case(reference, model)
    if found.risk_score is not None:
        last = found.survival[-1]
        told = f"risk score [bold]{found.risk_score:+.3f}[/], survival to {last.months:g} months {last.probability:.3f}"
    else:
        told = f"{found.positive_label} with probability [bold]{found.probability:.3f}[/]"
    out.print(
        f"[bold]{found.case}[/]: {told} → {found.label} "
        f"(threshold {found.threshold:.3f}; {found.model}/{found.version})",
        highlight=False,
    )
    table = Table("Feature", "Value", "z", f"Effect ({found.effect_unit})")
    for effect in found.effects[:10]:
        value = "missing" if effect.value is None else f"{effect.value:.4g}"
        table.add_row(effect.feature, value, f"{effect.z:+.2f}", f"{effect.effect:+.3f}")
    out.print(table)
    for warning in found.warnings:
        console.print(f"[yellow]{warning}[/]", highlight=False)


def studies_help() -> str:
    """Return the list of studies for the command's help."""
    from pipelines.studies import STUDIES

    return "\n\n".join(f"- **{name}**: {what}" for name, (_, what) in STUDIES.items())

"""Commands that use imaging networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from pipelines.cli.app import (
    CohortOption,
    ParamsOption,
    TolerateOption,
    cohort_name,
    conclude,
    out,
    progress_bar,
)
from services.shared.storage import open_storage

if TYPE_CHECKING:
    from services.model_serving.contracts import Explanation


def explain(
    case: Annotated[
        str | None, typer.Argument(help="Case: COHORT/sub-ID, or sub-ID with --cohort; none: the whole cohort")
    ] = None,
    model: Annotated[str, typer.Option(help="Network below models/imaging, or any folder of one")] = "grade",
    target: Annotated[str | None, typer.Option(help="class or risk [default: what the network is for]")] = None,
    cohort: CohortOption = None,
    params: ParamsOption = None,
    tolerate: TolerateOption = 0,
) -> None:
    """**Explain** where an imaging network looked: Grad-CAM over the patient's volumes, and what lies there.

    Of one case: the map as NIfTI and a picture, by the network named. Of a whole cohort: each patient by the fold that
    never saw him, then each map's mean inside the highlighted region in both risk groups, as table and box plots.

    Examples: `gliaflow explain phantom/sub-phantom0001 --model grade`;
    `gliaflow explain --cohort phantom --model diffusion-survival`
    """
    folder = model if "/" in model else f"models/imaging/{model}"
    if case is None:
        _explain_cohort(cohort_name(cohort, params), folder, tolerate)
        return
    from pipelines.clients import connect
    from services.model_serving.contracts import ExplainRequest
    from services.shared.contracts import CaseRef

    named, _, label = case.rpartition("/")
    reference = CaseRef(cohort=named or cohort_name(cohort, params), id=label.removeprefix("sub-"))
    request = ExplainRequest.model_validate({"case": reference, "model": folder, "target": target})
    _print_explanation(connect("model_serving").explain(request))


def _print_explanation(found: Explanation) -> None:
    if not found.tumour_found:
        out.print(f"[bold]{found.case}[/]: no tumour of the network's region, so there is nothing to look at")
        return
    share = "–" if found.share_in_tumour is None else f"{found.share_in_tumour:.0%}"
    out.print(f"[bold]{found.case}[/]: {share} of the map lies in the tumour ({found.model})", highlight=False)
    table = Table("Channel", "Mean where the network looked", box=box.SIMPLE_HEAD)
    for name, value in found.means.items():
        table.add_row(name, "–" if value is None else f"{value:.3f}")
    out.print(table)
    storage = open_storage()
    for key in (found.activation, found.overlay):
        if key is not None:
            out.print(storage.url(key), soft_wrap=True, highlight=False)


def _explain_cohort(cohort: str, folder: str, tolerate: int) -> None:
    from pipelines.flows.explain import explain_cohort

    with progress_bar("Explaining") as progress:
        found = explain_cohort(cohort, folder, progress=progress)
    table = Table("Map", "Group", "Patients", "Median (quartiles)", "P (Mann–Whitney)", box=box.SIMPLE_HEAD)
    for row in found.table.to_dict("records"):
        box_text = f"{row['median']:.3f} ({row['q1']:.3f}–{row['q3']:.3f})" if row["patients"] else "–"
        p = "–" if row["p"] != row["p"] else f"{row['p']:.3g}"
        table.add_row(str(row["map"]), str(row["group"]), str(row["patients"]), box_text, p)
    out.print(table)
    storage = open_storage()
    for key in (found.table_key, found.figure_key):
        out.print(storage.url(key), soft_wrap=True, highlight=False)
    conclude("explain", found.outcomes, tolerate)

"""Write what a retraining did as one self-contained page."""

from __future__ import annotations

import numpy as np

from pipelines.promotion.comparison import Comparison, Discrimination, subgroup_name
from pipelines.promotion.drift import Drift
from pipelines.promotion.findings import Checked, Compared, Imported, Reproduced, Watched
from pipelines.promotion.gate import Decision
from pipelines.promotion.record import STEPS, Run
from pipelines.reporting.methods import Banner
from pipelines.reporting.page import render_page
from pipelines.reporting.picture import BLUE, LINE, MUTED, Picture, draw, in_house_style, new_figure
from pipelines.reporting.tables import UNKNOWN, Table, format_estimate, format_p
from services.shared.storage import Storage

SHOWN_FEATURES = 20
_ENDINGS = {
    "promoted": "The challenger passed every check, served well on trial, and is champion now.",
    "kept": "The challenger did not pass the gate: the champion stays.",
    "unchanged": "The same model came out again: the champion stays.",
    "rolled back": "The challenger passed the gate and did not serve well: the champion serves again.",
    "abandoned": "Another run was begun in its place.",
    None: "The run is not finished: the next one goes on after the last step below.",
}


def report_key(run: Run) -> str:
    """Key of a run's page."""
    return f"{run.folder}/report.html"


def write_retraining_report(storage: Storage, run: Run) -> str:
    """Write a run's page and return its key; the same record gives the same bytes."""
    storage.write_text(report_key(run), render_run(run))
    return report_key(run)


def render_run(run: Run) -> str:
    """Return the page of a run."""
    comparison = _comparison(run)
    decision = _decision(run)
    checked = run.result("check")
    drift = None if checked is None else Checked.model_validate(checked).drift
    watched = run.result("watch")
    return render_page(
        "retraining.html",
        run=run,
        lead=_ENDINGS[run.outcome],
        warning=_warning(run),
        facts=_facts(run),
        gate=_gate_text(decision),
        checks=None if decision is None or comparison is None else _checks_table(decision),
        comparison=None if comparison is None else _comparison_table(comparison),
        method=None if comparison is None else _method(comparison),
        forest=None if comparison is None else draw_discrimination(comparison),
        subgroups=None if comparison is None else _subgroup_table(comparison),
        serving=None if watched is None else _serving_table(Watched.model_validate(watched)),
        drift=None if drift is None else _drift_table(drift),
        drift_text=None if drift is None else _drift_text(drift),
        steps=_steps_table(run),
    )


def _comparison(run: Run) -> Comparison | None:
    found = run.result("compare")
    return None if found is None else Compared.model_validate(found).comparison


def _decision(run: Run) -> Decision | None:
    found = run.result("decide")
    return None if found is None else Decision.model_validate(found)


def _warning(run: Run) -> Banner | None:
    if run.problem is None:
        return None
    where = f" at step '{run.problem['step']}'" if "step" in run.problem else ""
    facts = [f"{name}: {run.problem[name]}" for name in ("field", "expected", "got", "remedy") if name in run.problem]
    return Banner(
        f"{run.problem.get('title', 'Stopped')}{where}", ". ".join([run.problem.get("detail", ""), "; ".join(facts)])
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    made = run.result("reproduce")
    found = [
        ("Outcome", run.outcome or "unfinished"),
        ("Run", run.id),
        ("Began", f"{run.began:%Y-%m-%d %H:%M} UTC"),
        ("Started by", run.trigger),
        ("Champion before", run.champion),
        ("Came out", UNKNOWN if made is None else Reproduced.model_validate(made).challenger),
    ]
    checked = run.result("check")
    if checked is not None:
        start = Checked.model_validate(checked)
        found += [
            ("Patients with an outcome at the start, not held out", f"{start.labelled}, {start.new} of them new"),
            ("Revision", start.revision[:12]),
        ]
    return found


def _gate_text(decision: Decision | None) -> str:
    if decision is None:
        return ""
    if decision.promote:
        return f"All {len(decision.checks)} checks passed."
    return f"{len(decision.failed)} of {len(decision.checks)} checks speak against the challenger."


def _checks_table(decision: Decision) -> Table:
    return Table(
        "What the gate looked at; every check must pass",
        ("Check", "Passed", "Expected", "Found"),
        tuple((c.name, "yes" if c.passed else "NO", c.expected, c.got) for c in decision.checks),
        flagged=tuple(i for i, check in enumerate(decision.checks) if not check.passed),
    )


def _method(comparison: Comparison) -> str:
    found = comparison.overall
    events = "deaths" if comparison.measure == "C-index" else "with the positive class"
    test = (
        "AUCs by DeLong's paired test"
        if comparison.measure == "AUC"
        else "Harrell's C by the jackknife covariance of both"
    )
    return (
        f"{found.patients} patients ({found.events} {events}) from whom neither version has learnt: a hash of their "
        f"label keeps them out of every training. {test}; intervals are 95 %."
    )


def _comparison_table(comparison: Comparison) -> Table:
    overall, accuracy = comparison.overall, comparison.accuracy
    at = "" if comparison.horizon_months is None else f" at {comparison.horizon_months:g} months"
    rows = (
        (
            comparison.measure,
            _plain(overall.champion),
            _plain(overall.challenger),
            format_estimate(overall.difference),
            UNKNOWN if overall.p_value is None else format_p(overall.p_value),
        ),
        (
            f"Brier score{at}",
            _plain(accuracy.champion_brier),
            _plain(accuracy.challenger_brier),
            format_estimate(accuracy.brier_difference),
            "",
        ),
        (
            f"Mean predicted risk{at}, observed {_plain(accuracy.observed)}",
            _plain(accuracy.champion_predicted),
            _plain(accuracy.challenger_predicted),
            "",
            "",
        ),
    )
    return Table(
        "Both versions on the held-out patients; the difference is challenger less champion",
        ("Figure", f"Champion {comparison.champion}", f"Challenger {comparison.challenger}", "Difference", "P"),
        rows,
        numeric=(1, 2, 3, 4),
    )


def _plain(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def _subgroup_table(comparison: Comparison) -> Table:
    rows = tuple(
        (
            subgroup_name(group),
            str(group.found.patients),
            str(group.found.events),
            _plain(group.found.champion),
            _plain(group.found.challenger),
            format_estimate(group.found.difference),
        )
        for group in comparison.subgroups
    )
    return Table(
        f"{comparison.measure} in subgroups; those with few patients are shown and not judged",
        ("Subgroup", "Patients", "Events", "Champion", "Challenger", "Difference"),
        rows,
        numeric=(1, 2, 3, 4, 5),
    )


def _serving_table(found: Watched) -> Table:
    figures = found.figures
    latency = UNKNOWN if figures.latency_p95_s is None else f"{1000 * figures.latency_p95_s:.0f} ms"
    rows = (
        ("Requests", str(figures.requests)),
        ("Failed by the service", f"{figures.errors} ({figures.error_rate:.1%})"),
        ("95th percentile of latency", latency),
        ("Speaks against it", "; ".join(found.faults) or "nothing"),
    )
    return Table("How the challenger served while it was watched", ("Figure", "Found"), rows)


def _drift_text(drift: Drift) -> str:
    if not drift.features:
        return f"{drift.new_patients} patients with features came since the champion was trained: too few to tell."
    moved = drift.drifted
    told = "none moved" if not moved else f"{len(moved)} moved: {', '.join(moved[:5])}"
    return (
        f"The champion's {len(drift.features)} features in {drift.new_patients} patients that came since, "
        f"against the {drift.reference_patients} that it learnt from (Kolmogorov–Smirnov, Holm; population stability "
        f"index): {told}."
    )


def _drift_table(drift: Drift) -> Table:
    ranked = sorted(drift.features, key=lambda one: (not one.drifted, one.p_adjusted, one.feature))[:SHOWN_FEATURES]
    return Table(
        f"Features by P, at most {SHOWN_FEATURES}",
        ("Feature", "Drifted", "Stability index", "P", "P, adjusted"),
        tuple(
            (f.feature, "yes" if f.drifted else "no", f"{f.psi:.2f}", format_p(f.p_value), format_p(f.p_adjusted))
            for f in ranked
        ),
        numeric=(2, 3, 4),
        flagged=tuple(i for i, one in enumerate(ranked) if one.drifted),
    )


def _steps_table(run: Run) -> Table:
    rows = []
    for step in STEPS:
        record = next((each for each in run.steps if each.step == step), None)
        if record is None:
            rows.append((step, "not done", "", ""))
        else:
            rows.append((step, f"{record.finished:%Y-%m-%d %H:%M:%S}", f"{record.seconds:.1f}", _found(run, step)))
    return Table("What was done when, and what it found", ("Step", "Done, UTC", "Seconds", "Found"), tuple(rows), (2,))


def _found(run: Run, step: str) -> str:
    result = next(record.result for record in run.steps if record.step == step)
    if step == "import":
        found = Imported.model_validate(result)
        if found.importer is None:
            return "nothing to import"
        return (
            f"{found.importer}: {found.cases} cases, {found.cases - found.cases_before:+d}; {found.left_out} left out"
        )
    if step == "reproduce":
        made = Reproduced.model_validate(result)
        return f"ran {', '.join(made.stages) or 'nothing'}; {made.challenger}"
    return ", ".join(f"{name} {value}" for name, value in result.items() if isinstance(value, str | int | float))


@in_house_style
def draw_discrimination(comparison: Comparison) -> Picture:
    """Draw both versions' AUC or C, over all patients and in each subgroup."""
    rows: list[tuple[str, Discrimination]] = [("all patients", comparison.overall)]
    rows += [(subgroup_name(group), group.found) for group in comparison.subgroups]
    labels: list[str] = []
    pairs: list[tuple[float, float]] = []
    for label, found in rows:
        if found.champion is not None and found.challenger is not None:
            labels.append(f"{label} (n = {found.patients})")
            pairs.append((found.champion, found.challenger))
    told = [f"{label}: {before:.3f} and {now:.3f}" for label, (before, now) in zip(labels, pairs, strict=True)]
    figure, axes = new_figure(6.4, 1.1 + 0.26 * max(1, len(pairs)))
    heights = np.arange(len(pairs))[::-1]
    for height, pair in zip(heights, pairs, strict=True):
        axes.plot(pair, [height, height], color=LINE, linewidth=2, zorder=1)
    axes.plot([before for before, _ in pairs], heights, "s", color=MUTED, markersize=6, label="champion")
    axes.plot([now for _, now in pairs], heights, "o", color=BLUE, markersize=6, label="challenger")
    axes.axvline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    axes.set_yticks(heights, labels)
    axes.set(
        xlabel=f"{comparison.measure} on held-out patients",
        xlim=(min([0.45, *(value for pair in pairs for value in pair)]) - 0.02, 1.02),
        ylim=(-0.7, max(1, len(pairs)) - 0.3),
    )
    axes.grid(visible=False, axis="y")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return draw(
        figure,
        name="discrimination",
        alt=f"{comparison.measure} of champion and challenger: {'; '.join(told)}",
        caption=f"{comparison.measure} of champion and challenger on the same held-out patients, over all and by "
        "subgroup. A subgroup where it cannot be computed is left out.",
    )

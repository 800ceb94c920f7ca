"""The gate: figures and thresholds in, a decision with its reasons out. Nothing else decides who is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from pydantic import Field

from pipelines.promotion.comparison import Comparison, judged_subgroups, subgroup_name
from services.model_serving.package import Estimate, PackageDescription
from services.shared.contracts import Contract


class GateThresholds(Contract):
    """What a challenger must reach."""

    margin: float = Field(
        0.05, ge=0, lt=0.5, description="Loss of AUC or C that is ruled out at 5 % (one-sided) before promotion"
    )
    min_held_out_events: int = Field(10, ge=2, description="Held-out patients with, and of a class without, the event")
    max_brier_increase: float = Field(0.02, ge=0, le=1, description="Largest increase of the Brier score")
    max_miscalibration: float = Field(
        0.15, ge=0, le=1, description="Largest distance of mean predicted risk from the observed one"
    )
    subgroup_min_events: int = Field(
        8, ge=2, description="Patients with, and of a class without, the event from which a subgroup is judged"
    )
    subgroup_floor: float = Field(0.5, ge=0, le=1, description="Lowest AUC or C of the challenger in a subgroup")
    subgroup_max_drop: float = Field(
        0.15, ge=0, le=1, description="Largest loss of AUC or C against the champion in a subgroup"
    )


class Check(Contract):
    """One thing that was looked at."""

    name: str
    passed: bool
    expected: str
    got: str


class Decision(Contract):
    """Whether the challenger may be promoted, and every check behind it."""

    promote: bool
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that speak against it."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def reason(self) -> str:
        """One line for a history or a log."""
        if self.promote:
            return f"passed {len(self.checks)} checks"
        return "; ".join(f"{check.name}: {check.got}, expected {check.expected}" for check in self.failed)


def judge_challenger(
    comparison: Comparison,
    champion: PackageDescription,
    challenger: PackageDescription,
    *,
    thresholds: GateThresholds,
    earlier: Sequence[Check] = (),
) -> Decision:
    """Decide whether a challenger may take the champion's place.

    A figure that is missing or not finite speaks against it, whatever the thresholds.

    Parameters
    ----------
    champion, challenger
        Descriptions of both packages: training events and out-of-fold figures.
    earlier
        Checks of earlier steps, which count like the gate's own.
    """
    checks = [
        *earlier,
        _same_question(champion, challenger),
        _enough_held_out(comparison, thresholds),
        _training_events(champion, challenger),
        _better_than_chance(challenger, comparison.measure),
        _discrimination(comparison, thresholds),
        _brier(comparison, thresholds),
        _calibration(comparison, thresholds),
        *_subgroups(comparison, thresholds),
    ]
    return Decision(promote=all(check.passed for check in checks), checks=tuple(checks))


def _same_question(champion: PackageDescription, challenger: PackageDescription) -> Check:
    def asked(one: PackageDescription) -> str:
        return f"{one.study}, {'/'.join(one.classes)}, {'survival' if one.kind == 'cox' else 'class'}"

    return Check(
        name="same question",
        passed=asked(champion) == asked(challenger),
        expected=asked(champion),
        got=asked(challenger),
    )


def _enough_held_out(comparison: Comparison, thresholds: GateThresholds) -> Check:
    events, others = comparison.overall.events, comparison.overall.patients - comparison.overall.events
    needed = thresholds.min_held_out_events
    classes = comparison.measure == "AUC"
    return Check(
        name="held-out patients",
        passed=events >= needed and (others >= needed or not classes),
        expected=f"{needed} with the event" + (f" and {needed} without" if classes else ""),
        got=f"{events} with, {others} without",
    )


def training_events(description: PackageDescription) -> int:
    """Return how many events a model learnt from: deaths, or patients of the smaller class."""
    counts = description.training.patients_by_class
    return counts["deaths"] if "deaths" in counts else min(counts.values(), default=0)


def _training_events(champion: PackageDescription, challenger: PackageDescription) -> Check:
    before, now = training_events(champion), training_events(challenger)
    return Check(name="training events", passed=now >= before, expected=f"at least {before}", got=str(now))


def _better_than_chance(challenger: PackageDescription, measure: str) -> Check:
    name = "auc" if measure == "AUC" else "c_index"
    own, shuffled = challenger.metrics.get(name), challenger.metrics.get(f"permuted_{name}")
    floor = 0.5 if shuffled is None else max(0.5, shuffled.value)
    known = own is not None and isfinite(own.value)
    return Check(
        name="out of fold, better than shuffled outcomes",
        passed=own is not None and known and own.value > floor,
        expected=f"{measure} above {floor:.3f}",
        got=f"{own.value:.3f}" if own is not None and known else "not known",
    )


def _discrimination(comparison: Comparison, thresholds: GateThresholds) -> Check:
    found, low = comparison.overall, comparison.overall.lower_90
    passed = _finite(found.champion, found.challenger, low) and low is not None and low >= -thresholds.margin
    return Check(
        name=f"{comparison.measure} not lower",
        passed=passed,
        expected=f"difference above -{thresholds.margin:g} at 5 %",
        got=_told(found.difference, low),
    )


def _told(difference: Estimate | None, low: float | None) -> str:
    if difference is None or low is None:
        return "not defined in these patients"
    return f"{difference.value:+.3f}, above {low:+.3f}"


def _brier(comparison: Comparison, thresholds: GateThresholds) -> Check:
    accuracy = comparison.accuracy
    gap = None if accuracy.brier_difference is None else accuracy.brier_difference.value
    return Check(
        name="Brier score",
        passed=_finite(accuracy.champion_brier, accuracy.challenger_brier, gap)
        and gap is not None
        and gap <= thresholds.max_brier_increase,
        expected=f"at most {thresholds.max_brier_increase:+g}",
        got="not defined in these patients" if gap is None else f"{gap:+.3f}",
    )


def _calibration(comparison: Comparison, thresholds: GateThresholds) -> Check:
    accuracy = comparison.accuracy
    predicted, observed, before = accuracy.challenger_predicted, accuracy.observed, accuracy.champion_predicted
    passed, got = False, "not defined in these patients"
    if predicted is not None and observed is not None and before is not None:
        off = abs(predicted - observed)
        # Few held-out patients stray from any model: then the challenger must at least not stray further.
        passed = off <= max(thresholds.max_miscalibration, abs(before - observed))
        got = f"predicted {predicted:.3f}, observed {observed:.3f}"
    return Check(
        name="calibration in the large",
        passed=passed,
        expected=f"within {thresholds.max_miscalibration:g}, or as near as the champion",
        got=got,
    )


def _subgroups(comparison: Comparison, thresholds: GateThresholds) -> list[Check]:
    checks = []
    for group in judged_subgroups(comparison, minimum=thresholds.subgroup_min_events):
        champion, challenger = group.found.champion, group.found.challenger
        passed = False
        if champion is not None and challenger is not None:
            drop = champion - challenger
            passed = challenger >= thresholds.subgroup_floor and drop <= thresholds.subgroup_max_drop
        checks.append(
            Check(
                name=f"{comparison.measure} of {subgroup_name(group)}",
                passed=passed,
                expected=f"at least {thresholds.subgroup_floor:g}, "
                f"at most {thresholds.subgroup_max_drop:g} below the champion",
                got="not defined"
                if champion is None or challenger is None
                else f"{challenger:.3f}, champion {champion:.3f}",
            )
        )
    return checks


def _finite(*values: float | None) -> bool:
    return all(value is not None and isfinite(value) for value in values)

"""Patients without images: grade, ATRX, risk, clinical table row and survival of case ``index``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Literal

import numpy as np

from pipelines.phantom.effects import EFFECTS, Stream, random_stream

FIRST_SCAN = date(2015, 1, 5)
DAYS_BETWEEN_SCANS = 9
BLOCK = 4

Status = Literal["WT", "Mutant"]
RiskGroup = Literal["high", "low"]


@dataclass(frozen=True)
class Biology:
    """What decides how a tumour looks: the three drivers of every planted effect."""

    grade: int
    atrx: Status
    risk_group: RiskGroup

    @property
    def high_risk(self) -> bool:
        """Whether the ferroptosis-gene risk group is high."""
        return self.risk_group == "high"


def draw_design(seed: int, index: int, *, null: bool = False) -> tuple[int, Status]:
    """Return a case's grade and ATRX status; with ``null`` an independent second draw of the same design.

    Cases come in blocks of four: grade 4 or lower x ATRX mutant or wild type, once each, in random order; of the
    two lower grades of a block one is 2 and one is 3. So classes are balanced and ATRX is independent of grade,
    whatever the number of cases.
    """
    rng = random_stream(seed, index // BLOCK, Stream.NULL_DESIGN if null else Stream.DESIGN)
    slot = int(rng.permutation(BLOCK)[index % BLOCK])
    lower = (2, 3) if rng.random() < 0.5 else (3, 2)
    status: Status = "Mutant" if slot % 2 else "WT"
    return (lower[slot] if slot < len(lower) else 4), status


def draw_biology(seed: int, index: int) -> Biology:
    """Return the drivers of a case's images."""
    grade, atrx = draw_design(seed, index)
    return Biology(grade, atrx, _draw_risk(random_stream(seed, index, Stream.RISK), grade))


def _draw_risk(rng: np.random.Generator, grade: int) -> RiskGroup:
    return "high" if rng.random() < EFFECTS.high_risk_probability[grade] else "low"


def _draw_unrelated(rng: np.random.Generator) -> Biology:
    """Draw drivers that belong to no case: what follows from them has the right marginals and no link."""
    grade = int(rng.choice((2, 3, 4, 4)))
    atrx: Status = "Mutant" if rng.random() < 0.5 else "WT"
    return Biology(grade, atrx, _draw_risk(rng, grade))


@dataclass(frozen=True)
class Patient:
    """One row of the clinical table. ``biology`` shapes the images; in the null phantom the row does not know it."""

    index: int
    biology: Biology
    row: dict[str, object]


def participant_label(index: int) -> str:
    """Return the BIDS subject label of a case.

    >>> participant_label(0)
    'phantom0001'
    """
    return f"phantom{index + 1:04d}"


def draw_patient(seed: int, index: int, *, subset: str, null: bool = False) -> Patient:
    """Return a patient. With ``null`` every label, age and survival time is drawn free of the images and of each other.

    Definitions stay: histology is named after grade, IDH and 1p/19q, and a codeleted tumour is IDH-mutant,
    ATRX wild type and not grade 4.
    """
    biology = draw_biology(seed, index)
    grade, atrx = draw_design(seed, index, null=null)
    rng = random_stream(seed, index, Stream.NULL_CLINIC if null else Stream.CLINIC)

    def driver() -> Biology:
        return _draw_unrelated(rng) if null else biology

    risk = driver().risk_group
    age = int(np.clip(round(rng.normal(EFFECTS.age_years[driver().grade], EFFECTS.age_sd_years)), 19, 85))
    idh = "Mutant" if rng.random() < EFFECTS.idh_mutant_probability[driver().grade] else "WT"
    codeleted = idh == "Mutant" and atrx == "WT" and grade < 4 and rng.random() < 0.5
    methylated = rng.random() < EFFECTS.mgmt_methylated_probability[driver().grade]
    sex = "M" if rng.random() < 0.56 else "F"
    scan = FIRST_SCAN + timedelta(days=DAYS_BETWEEN_SCANS * index + int(rng.integers(DAYS_BETWEEN_SCANS)))

    survival_rng = random_stream(seed, index, Stream.NULL_SURVIVAL if null else Stream.SURVIVAL)
    unrelated = _draw_unrelated(survival_rng)
    unrelated_age = float(survival_rng.normal(50, EFFECTS.age_sd_years))
    os_months, event = _draw_survival(
        survival_rng, unrelated if null else biology, age_years=unrelated_age if null else age
    )
    return Patient(
        index,
        biology,
        {
            "participant_id": f"sub-{participant_label(index)}",
            "source_id": f"PHANTOM-{index + 1:04d}",
            "subset": subset,
            "scan_date": scan.isoformat(),
            "age_years": age,
            "sex": sex,
            "grade": grade,
            "histology": _name_histology(grade, idh, codeleted=codeleted),
            "idh": idh,
            "codeletion_1p19q": "codel" if codeleted else "non-codel",
            "mgmt": "Methylated" if methylated else "Unmethylated",
            "atrx": atrx,
            "risk_group": risk,
            "os_months": os_months,
            "event": event,
        },
    )


def _name_histology(grade: int, idh: str, *, codeleted: bool) -> str:
    if codeleted:
        return "Oligodendroglioma"
    if idh == "WT":
        return "Glioblastoma" if grade == 4 else "Diffuse astrocytoma, IDH-wildtype"
    return "Astrocytoma, IDH-mutant"


def _draw_survival(rng: np.random.Generator, biology: Biology, *, age_years: float) -> tuple[float, int]:
    """Draw a Weibull time to death with proportional hazards, censored at the end of follow-up (12 to 96 months)."""
    log_hazard = (
        EFFECTS.log_hazard_grade[biology.grade]
        + EFFECTS.log_hazard_high_risk * biology.high_risk
        + EFFECTS.log_hazard_atrx_mutant * (biology.atrx == "Mutant")
        + EFFECTS.log_hazard_age_decade * (age_years - 50) / 10
    )
    shape = EFFECTS.survival_shape
    death = EFFECTS.survival_scale_months * (rng.exponential() * np.exp(-log_hazard)) ** (1 / shape)
    follow_up = rng.uniform(12, 96)
    return round(float(max(min(death, follow_up), 0.1)), 1), int(death <= follow_up)

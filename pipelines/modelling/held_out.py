"""Patients that no version of a model learns from, so that versions can be compared on them.

A hash of the patient's label decides, and nothing else: the same patient is held out on every machine, in every cohort
and at every retraining, and a larger share holds out the same patients and more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pydantic import Field

REASON = "held out to compare versions"
HeldOutShare = Field(
    0.0,
    ge=0,
    le=0.5,
    description="Share of patients, by a hash of their label, that the study leaves out to compare its versions on",
)


def is_held_out(case_id: str, share: float) -> bool:
    """Return whether a patient belongs to the share that is held out.

    >>> [is_held_out("p001", share) for share in (0.0, 1.0)]
    [False, True]
    """
    digest = hashlib.sha256(f"held out\n{case_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def held_out_cases(case_ids: Iterable[str], share: float) -> dict[str, str]:
    """Return the reason by label of the patients that a study leaves out."""
    return {case_id: REASON for case_id in sorted(case_ids) if is_held_out(case_id, share)}

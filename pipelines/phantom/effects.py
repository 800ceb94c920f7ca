"""Every effect that the phantom plants, in one table: what a study on the phantom can find, and how strong it is.

Nothing else links a label to an image, a gene or a survival time. docs/phantom.md explains the table.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import IntEnum

import numpy as np

GRADES = (2, 3, 4)


class Stream(IntEnum):
    """Independent random streams of one cohort; a new stream never shifts another."""

    DESIGN = 0
    RISK = 1
    CLINIC = 2
    SURVIVAL = 3
    ANATOMY = 4
    TUMOUR = 5
    TEXTURE = 6
    SCANNER = 7
    DIFFUSION = 8
    EXPRESSION = 9
    GENES = 10
    NULL_DESIGN = 11
    NULL_CLINIC = 12
    NULL_SURVIVAL = 13


def random_stream(seed: int, index: int, stream: Stream) -> np.random.Generator:
    """Return the generator of one stream of one case (or block); it depends on nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index, int(stream))))


@dataclass(frozen=True)
class Effects:
    """Planted effects. A dictionary is keyed by WHO grade; ``sd`` of a logarithm is the spread between patients."""

    core_radius_mm: dict[int, float] = field(default_factory=lambda: {2: 14.5, 3: 15.5, 4: 18.75})
    core_radius_log_sd: float = 0.15
    oedema_width_mm: dict[int, float] = field(default_factory=lambda: {2: 6.0, 3: 7.0, 4: 8.5})
    oedema_width_sd_mm: float = 2.0
    rim_probability: dict[int, float] = field(default_factory=lambda: {2: 0.2, 3: 0.4, 4: 0.9})
    rim_thickness_mm: dict[int, float] = field(default_factory=lambda: {2: 4.0, 3: 4.25, 4: 5.0})
    rim_thickness_sd_mm: float = 0.7
    rim_thickness_high_risk_mm: float = -0.8
    rim_coverage: dict[int, float] = field(default_factory=lambda: {2: 0.5, 3: 0.6, 4: 0.95})
    necrosis: dict[int, float] = field(default_factory=lambda: {2: 0.15, 3: 0.25, 4: 0.4})
    necrosis_high_risk: float = 0.35
    necrosis_sd: float = 0.1
    core_heterogeneity: dict[int, float] = field(default_factory=lambda: {2: 0.06, 3: 0.07, 4: 0.1})
    core_heterogeneity_log_sd: float = 0.25
    core_heterogeneity_length_mm: float = 3.5
    texture_length_mm: dict[str, float] = field(default_factory=lambda: {"WT": 2.5, "Mutant": 6.0})
    texture_length_log_sd: float = 0.2
    texture_amplitude: float = 0.1
    high_risk_probability: dict[int, float] = field(default_factory=lambda: {2: 0.2, 3: 0.4, 4: 0.7})
    tumour_fa: dict[str, float] = field(default_factory=lambda: {"low": 0.5, "high": 0.2})
    tumour_md_um2_ms: dict[int, float] = field(default_factory=lambda: {2: 1.35, 3: 1.25, 4: 1.1})
    tumour_md_high_risk_um2_ms: float = 0.3
    age_years: dict[int, float] = field(default_factory=lambda: {2: 41.0, 3: 46.0, 4: 58.0})
    age_sd_years: float = 11.0
    idh_mutant_probability: dict[int, float] = field(default_factory=lambda: {2: 0.8, 3: 0.65, 4: 0.12})
    mgmt_methylated_probability: dict[int, float] = field(default_factory=lambda: {2: 0.6, 3: 0.55, 4: 0.42})
    survival_shape: float = 1.3
    survival_scale_months: float = 110.0
    log_hazard_grade: dict[int, float] = field(default_factory=lambda: {2: 0.0, 3: 0.8, 4: 2.0})
    log_hazard_high_risk: float = 1.0
    log_hazard_atrx_mutant: float = -0.5
    log_hazard_age_decade: float = 0.25
    signature_gene_log2: float = 1.0
    grade_gene_log2: float = 0.7

    def to_table(self) -> dict[str, object]:
        """Return the table as plain values, for ``phantom.json``."""
        return asdict(self)


EFFECTS = Effects()

"""Gene expression: log2(FPKM + 1) and read counts with planted effects of risk group and grade."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pipelines.phantom.clinic import Patient
from pipelines.phantom.effects import EFFECTS, Stream, random_stream

# The 23 genes of the published signature; +1 rises, -1 falls with high risk in the phantom (planted, not measured).
SIGNATURE_GENES: dict[str, int] = {
    "NOX1": 1, "NCOA4": -1, "ALOX12": 1, "ALOX15B": 1, "ZEB1": -1, "HMOX1": 1, "TGFBR1": 1, "IDH1": -1,
    "PEX12": -1, "MYCN": -1, "SMG9": 1, "SLC39A7": 1, "SCD": -1, "NFS1": -1, "SQSTM1": 1, "CD44": 1,
    "RRM2": 1, "GDF15": 1, "PARP4": -1, "PARP14": 1, "KIF20A": 1, "ETV4": 1, "LCN2": 1,
}  # fmt: skip
NOISE_GENES = tuple(f"GENE{n:03d}" for n in range(1, 128))
GRADE_GENES = NOISE_GENES[:10]
GENES = (*SIGNATURE_GENES, *NOISE_GENES)
_DISPERSION = 0.1


def draw_expression(seed: int, patients: list[Patient], *, null: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return log2(FPKM + 1) and counts, participants x genes, indexed by ``participant_id``.

    A patient's values depend on the seed and the patient alone. With ``null`` the noise is the same and the effects are
    zero.
    """
    gene_rng = random_stream(seed, 0, Stream.GENES)
    base = gene_rng.uniform(2.5, 7.0, len(GENES))
    spread = gene_rng.uniform(0.5, 0.9, len(GENES))
    reads_per_fpkm = gene_rng.uniform(10, 60, len(GENES))
    sign = np.array([SIGNATURE_GENES.get(gene, 0) for gene in GENES], float)
    with_grade = np.isin(GENES, GRADE_GENES).astype(float)
    values, counts = [], []
    for patient in patients:
        rng = random_stream(seed, patient.index, Stream.EXPRESSION)
        x = base + spread * rng.standard_normal(len(GENES))
        depth = rng.uniform(0.8, 1.25)
        overdispersion = rng.gamma(1 / _DISPERSION, _DISPERSION, len(GENES))
        if not null:
            x += sign * EFFECTS.signature_gene_log2 * patient.biology.high_risk
            x += with_grade * EFFECTS.grade_gene_log2 * (patient.biology.grade - 3)
        x = x.clip(0)
        values.append(np.round(x, 4))
        counts.append(rng.poisson((2**x - 1) * reads_per_fpkm * depth * overdispersion))
    index = pd.Index([str(p.row["participant_id"]) for p in patients], name="participant_id")
    return (
        pd.DataFrame(np.array(values), index=index, columns=list(GENES)),
        pd.DataFrame(np.array(counts, dtype=np.int64), index=index, columns=list(GENES)),
    )

"""How well a score tells patients apart: concordance, ROC curves and their comparisons, in one namespace."""

from services.survival_analytics.classification import Classification, Thresholds, best_threshold, classify
from services.survival_analytics.concordance import (
    Concordance,
    SomersD,
    StrictConcordance,
    concordance,
    somers_d,
    strict_concordance,
    truncated_concordance,
)
from services.survival_analytics.concordance_comparison import (
    ConcordanceComparison,
    PairwisePreference,
    compare_concordance,
    compare_separation,
)
from services.survival_analytics.conditional_roc import conditional_roc
from services.survival_analytics.roc import (
    Auc,
    AucComparison,
    AucMatrix,
    RocCurve,
    auc,
    compare_auc,
    compare_auc_matrix,
    compare_auc_unpaired,
    roc,
)
from services.survival_analytics.time_dependent_roc import (
    TimeDependentAuc,
    TimeDependentAucComparison,
    TimeDependentRoc,
    compare_time_dependent_auc,
    time_dependent_auc,
    weighted_roc,
)

__all__ = [
    "Auc",
    "AucComparison",
    "AucMatrix",
    "Classification",
    "Concordance",
    "ConcordanceComparison",
    "PairwisePreference",
    "RocCurve",
    "SomersD",
    "StrictConcordance",
    "Thresholds",
    "TimeDependentAuc",
    "TimeDependentAucComparison",
    "TimeDependentRoc",
    "auc",
    "best_threshold",
    "classify",
    "compare_auc",
    "compare_auc_matrix",
    "compare_auc_unpaired",
    "compare_concordance",
    "compare_separation",
    "compare_time_dependent_auc",
    "concordance",
    "conditional_roc",
    "roc",
    "somers_d",
    "strict_concordance",
    "time_dependent_auc",
    "truncated_concordance",
    "weighted_roc",
]

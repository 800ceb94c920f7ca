"""Reference cases of R: where they are, how one is read, and how it is recomputed field by field."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.genomics.batch import fit_batch_means, fit_combat
from pipelines.genomics.correlation import correlate
from pipelines.genomics.counts import compare_counts, variance_stabilised
from pipelines.genomics.differential import design_matrix, moderated_t, voom
from pipelines.genomics.enrichment import over_representation
from pipelines.genomics.normalisation import fit_quantile_normalisation, log_cpm, tmm_factors
from pipelines.genomics.pathways import gsva, plage, ssgsea, z_score
from services.shared.errors import GliaflowError
from services.shared.settings import settings

OWN_CASES = Path(__file__).parent / "cases"
COUNT_FIELDS = ("baseMean", "log2FoldChange", "lfcSE", "stat", "pvalue", "padj")
METHODS = ("limma_combat", "gsva", "deseq2")
MISSING = {"NA": math.nan, "NaN": math.nan, "Inf": math.inf, "-Inf": -math.inf}


@dataclass(frozen=True)
class Case:
    """One file of R results; its inputs lie in ``../inputs``."""

    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parents[1].name}/{self.path.stem}"

    @property
    def method(self) -> str:
        return self.path.stem.split("__")[0]

    @cached_property
    def content(self) -> dict:
        return json.loads(self.path.read_text())

    @property
    def result(self) -> dict:
        return self.content["result"]

    def _file(self, position: int) -> Path:
        return self.path.parents[1] / "inputs" / self.content["inputs"][position]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """Samples x genes."""
        frame = pd.read_csv(self._file(0), index_col=0).T
        frame.index = frame.index.astype(str)
        frame.columns = frame.columns.astype(str)
        return frame

    @cached_property
    def samples(self) -> pd.DataFrame:
        table = pd.read_csv(self._file(1), dtype={"sample": str})
        return table.set_index("sample").loc[self.frame.index]

    @cached_property
    def gene_sets(self) -> dict[str, tuple[str, ...]]:
        content = json.loads(self._file(2).read_text())
        return {name: tuple(map(str, np.atleast_1d(genes))) for name, genes in content.items()}


def find_cases(methods: tuple[str, ...] = METHODS) -> list[Case]:
    """Every case of the methods, of the folder that the settings name and of the own copy."""
    root = Path(settings().r_oracle)
    return [
        Case(path)
        for folder in (root, OWN_CASES)
        for method in methods
        for path in sorted((folder / "outputs").glob(f"{method}__*.json"))
    ]


def numbers(value: object) -> np.ndarray:
    """A field's numbers as a flat array; R's words for missing and infinite become numbers."""
    if isinstance(value, str):
        return np.array([MISSING[value]])
    if isinstance(value, (list, tuple)):
        return np.concatenate([numbers(item) for item in value]) if value else np.empty(0)
    if isinstance(value, dict):
        return numbers(list(value.values()))
    return np.asarray(value, dtype=np.float64).ravel()


def disagreements(expected: dict, actual: dict, tolerances: dict[str, float], default: float) -> list[str]:
    """One line for every recomputed field that differs from R's; subfields that R lists and we do not are skipped."""
    lines = []
    for name, want in expected.items():
        if name not in actual:
            continue
        got, tolerance = actual[name], tolerances.get(name, default)
        if isinstance(want, str) and want not in MISSING:  # R refuses, or calls the design confounded
            lines += [] if isinstance(got, str) else [f"{name}: R says {want!r}, computed {type(got).__name__}"]
        elif isinstance(got, str):
            lines.append(f"{name}: refused with {got}")
        elif isinstance(want, list) and want and isinstance(want[0], str) and want[0] not in MISSING:
            lines += [] if want == list(got) else [f"{name}: names differ"]
        elif isinstance(want, dict) and isinstance(got, dict):
            common = {key: value for key, value in want.items() if key in got}
            assert common, f"{name}: no common subfield"
            inner = disagreements(common, got, {}, tolerance)
            lines += [f"{name}/{line}" for line in inner]
        elif not worst_difference(want, got) <= tolerance:
            lines.append(f"{name}: differs by {worst_difference(want, got):.2e}, allowed {tolerance:g}")
    return lines


def worst_difference(expected: object, actual: object) -> float:
    """Largest difference relative to the value, with room of 1e-3 of that near zero; infinite where shapes differ."""
    a, b = numbers(expected), numbers(actual)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return math.inf
    same = (a == b) | np.isnan(a)
    if same.all():
        return 0.0
    return float(np.max(np.abs(a - b)[~same] / (np.abs(a[~same]) + 1e-3)))


def _matrix(frame: pd.DataFrame, expected: dict) -> dict:
    """A samples x genes table as the rows and column statistics that a case keeps."""
    rows = expected.get("gene", expected.get("rows"))
    parts = {
        "values": frame[rows].to_numpy().T,
        "column_means": frame.mean(axis=1),
        "column_sds": frame.std(axis=1, ddof=1),
    }
    return {name: value for name, value in parts.items() if name in expected}


def recompute_limma_combat(case: Case) -> dict[str, object]:
    """Every field of a limma_combat case; an error's class name where the adjustment refuses."""
    x, samples, want = case.frame, case.samples, case.result
    group = re.search(r"group column '(\w+)'", case.content["note"]).group(1)
    batch = samples["batch"].astype(str)
    plain = design_matrix(samples, group=group, case=1)
    adjusted = design_matrix(samples, group=group, case=1, batch="batch")

    def limma(design: pd.DataFrame, *, trend: bool = False) -> dict:
        fit = moderated_t(x, design, coefficient=group, trend=trend)
        return {
            "logFC": fit.log_fold_change, "CI.L": fit.low, "CI.R": fit.high, "AveExpr": fit.mean, "t": fit.t,
            "P.Value": fit.p, "adj.P.Val": fit.fdr, "B": fit.log_odds, "df": fit.prior.df, "s2": fit.prior.variance,
        }  # fmt: skip

    def combat(frame: pd.DataFrame, **options: object) -> pd.DataFrame:
        model = fit_combat(frame, batch, **options)
        covariates = options.get("covariates")
        return model.apply(frame, batch, covariates=covariates)

    def attempt(make, expected: object) -> object:
        try:
            result = make()
        except GliaflowError as exc:
            return type(exc).__name__
        return _matrix(result, expected) if isinstance(result, pd.DataFrame) else result

    first, trended = cache(lambda: limma(plain)), cache(lambda: limma(plain, trend=True))
    makers = {
        "limma": first,
        "df_prior": lambda: first()["df"],
        "s2_prior": lambda: first()["s2"],
        "limma_trend": trended,
        "trend_df_prior": lambda: trended()["df"],
        "limma_with_batch": lambda: limma(adjusted),
        "combat_null": lambda: combat(x),
        "combat_mod": lambda: combat(x, covariates=plain),
        "combat_mean_only": lambda: combat(x, mean_only=True),
        "combat_ref": lambda: combat(x, reference=str(np.atleast_1d(want["combat_ref"]["ref"])[0])),
        "combat_nonparametric_first_rows": lambda: combat(
            x.iloc[:, : want["combat_nonparametric_first_rows"]["n_rows"]], prior="nonparametric"
        ),
        "removeBatchEffect": lambda: fit_batch_means(x, batch).apply(x, batch),
        "removeBatchEffect_design": lambda: fit_batch_means(x, batch, design=plain).apply(x, batch),
        "quantile_normalized": lambda: fit_quantile_normalisation(x).apply(x),
    }
    return {name: attempt(makers[name], want[name]) for name in want if name in makers}


def recompute_gsva(case: Case) -> dict[str, object]:
    """Every field of a gsva case."""
    x, sets, want = case.frame, case.gene_sets, case.result

    def put(scores) -> dict:
        return {"sets": list(scores.values.columns), "values": scores.values.to_numpy().T}

    def poisson() -> dict:
        reads = np.round(2 ** (x.iloc[:, :300] - x.iloc[:, :300].min().min()))
        reads = reads.loc[:, reads.std() > 0].clip(upper=5000).iloc[:20]
        near = {name: tuple(g for g in genes if g in reads.columns) for name, genes in sets.items()}
        near = {name: genes for name, genes in near.items() if len(genes) >= 2}
        return put(gsva(reads, near, kernel="poisson"))

    def signed() -> dict:
        """A PLAGE score's sign is a matter of convention; each set takes R's."""
        scores = put(plage(x, sets))
        agreement = np.sum(scores["values"] * np.array(want["plage"]["values"]), axis=1, keepdims=True)
        return scores | {"values": scores["values"] * np.sign(agreement)}

    def over() -> dict:
        test = over_representation(want["ora"]["de"], sets, universe=x.columns)
        return {
            "sets": list(test.sets), "size": test.size, "overlap": test.overlap, "p": test.p, "BH": test.fdr,
            "fold": test.fold,
        }  # fmt: skip

    def correlation() -> dict:
        linear = correlate(x.iloc[:, 1:], x.iloc[:, 0]).to_frame()
        ranked = correlate(x.iloc[:, 1:], x.iloc[:, 0], method="spearman").to_frame()
        listed = want["correlation_with_first_gene"]["gene"]
        return {
            "r": linear.loc[listed, "r"],
            "p": linear.loc[listed, "p"],
            "BH_over_all": linear.loc[listed, "fdr"],
            "spearman": ranked.loc[listed, "r"],
            "n_BH05": (linear["fdr"] < 0.05).sum(),
        }

    makers = {
        "gsva_gaussian": lambda: put(gsva(x, sets)),
        "gsva_none": lambda: put(gsva(x, sets, kernel="none")),
        "gsva_gaussian_mxdiffFALSE": lambda: put(gsva(x, sets, difference=False)),
        "gsva_absranking": lambda: put(gsva(x, sets, absolute_ranking=True)),
        "gsva_poisson": poisson,
        "ssgsea_norm": lambda: put(ssgsea(x, sets)),
        "ssgsea_raw": lambda: put(ssgsea(x, sets, normalise=False)),
        "zscore": lambda: put(z_score(x, sets)),
        "plage": signed,
        "filter_min10_max100": lambda: list(z_score(x, sets, least=10, most=100).values.columns),
        "ora": over,
        "correlation_with_first_gene": correlation,
    }
    return {name: makers[name]() for name in want if name in makers}


def count_design(case: Case) -> tuple[pd.DataFrame, str]:
    """The design matrix that the case's note states, and the tested column."""
    formula, contrast = re.match(r"design ~ (.+?) ; contrast (.+?) ;", case.content["note"]).groups()
    group, level, base = contrast.split()
    others = [term for term in formula.split(" + ") if term != group]
    samples = case.samples.assign(**{group: case.samples[group].astype(str)})
    assert set(samples[group]) == {level, base}
    words = [term for term in others if not pd.api.types.is_numeric_dtype(samples[term])]
    design = design_matrix(
        samples,
        group=group,
        case=level,
        batch=words[0] if words else None,
        numeric=tuple(term for term in others if term not in words),
    )
    for term in words[1:]:
        design = pd.get_dummies(samples[term], prefix=term, drop_first=True, dtype=float).join(design)
    return design, group


def recompute_counts(case: Case) -> dict[str, object]:
    """Closed fields of a deseq2 case: TMM, log CPM and voom."""
    design, group = count_design(case)
    factors = tmm_factors(case.frame)
    ready = voom(case.frame, design, factors=factors)
    fit = moderated_t(ready.values, design, coefficient=group, weights=ready.weights)
    # The subset's rows are spaced evenly over the genes: R's unique(round(seq(1, n, length.out = 200)))[1:20].
    genes = np.unique(np.round(np.linspace(1, case.frame.shape[1], 200)).astype(int))[:20] - 1
    return {
        "edger_tmm": factors.to_numpy(),
        "edger_logcpm_subset": log_cpm(case.frame, factors).iloc[:, genes].to_numpy().T,
        "limma_voom": {
            "logFC": fit.log_fold_change, "AveExpr": fit.mean, "t": fit.t, "P.Value": fit.p, "adj.P.Val": fit.fdr,
            "B": fit.log_odds,
        },
    }  # fmt: skip


def compare_case(case: Case) -> dict[str, object]:
    """The Wald test of a deseq2 case."""
    design, group = count_design(case)
    found = compare_counts(case.frame, design, coefficient=group)
    listed = found.to_frame().loc[case.result["lrt_subset"]["gene"]]
    return {
        "trend": found.trend,
        "size_factors": found.size_factors.to_numpy(),
        "replaced": len(found.replaced),
        "significant": int(np.sum(found.fdr < 0.05)),
        "baseMean": found.base_mean,
        "log2FoldChange": found.log_fold_change,
        "lfcSE": found.standard_error,
        "stat": found.statistic,
        "pvalue": found.p,
        "padj": found.fdr,
        "lrt_stat": listed["likelihood_ratio"].to_numpy(),
        "lrt_p": listed["likelihood_ratio_p"].to_numpy(),
        "stabilised": variance_stabilised(case.frame)[case.result["vst_subset"]["gene"]].to_numpy().T,
    }


def rank_agreement(expected: object, actual: np.ndarray) -> float:
    """Spearman correlation over genes that both know."""
    want = numbers(expected)
    both = np.isfinite(want) & np.isfinite(actual)
    return float(pd.Series(want[both]).corr(pd.Series(actual[both]), method="spearman"))

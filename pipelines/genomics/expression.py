"""Expression tables as they arrive: scale, identifiers, duplicates, and which genes are worth keeping.

A table is samples x genes. What looks wrong is an error; what is put right is counted in the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, InvalidValue, TooFewCases

FloatArray = NDArray[np.float64]
Unit = Literal["fpkm", "tpm", "counts", "log2"]
Scale = Literal["counts", "linear", "log2"]
Merge = Literal["mean", "max"]
GeneIds = Literal["symbol", "entrez", "ensembl", "mixed"]

# A linear scale reaches far above what a log2 scale can: 2**30 is more than any FPKM or read count.
_LARGEST_LOG2 = 30.0
_ENTREZ = re.compile(r"\d+(\.0)?$")
_ENSEMBL = re.compile(r"ENS[A-Z]*[GT]\d{11}(\.\d+)?$")


@dataclass(frozen=True)
class PreparedExpression:
    """An expression table on the log2 scale, and what was done to get there.

    Parameters
    ----------
    values
        Samples x genes, log2(x + 1), or as given where the unit was ``log2``.
    gene_ids
        Kind of the genes' identifiers.
    merged
        Number of columns by gene that stood more than once.
    constant
        Genes that do not vary; they stay in ``values``.
    """

    values: pd.DataFrame
    gene_ids: GeneIds
    merged: dict[str, int]
    constant: tuple[str, ...]


@dataclass(frozen=True)
class GeneSelection:
    """Genes chosen on training samples; other tables are cut to them.

    Parameters
    ----------
    genes
        In the order of the training table.
    dropped
        Genes of the training table that were not chosen.
    """

    genes: tuple[str, ...]
    dropped: tuple[str, ...]

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the chosen genes of a table; a gene that it lacks is an IdMismatch."""
        return take_genes(frame, self.genes)


def check_expression(frame: pd.DataFrame, *, step: str) -> FloatArray:
    """Return the values, shape (samples, genes), of a table that is numeric, finite and has unique names.

    Raises
    ------
    DuplicateId, InvalidTable, TooFewCases
        Where samples or genes repeat, a value is missing or no number, or the table is empty.
    """
    if frame.empty:
        raise TooFewCases("The expression table is empty.", step=step, got=f"{len(frame)} samples x {frame.shape[1]}")
    for axis, kind in ((frame.index, "sample"), (frame.columns, "gene")):
        repeated = axis[axis.duplicated()]
        if len(repeated):
            raise DuplicateId(
                f"A {kind} occurs more than once in the expression table.",
                step=step,
                got=_some(repeated.unique()),
                remedy="merge_duplicates aggregates genes" if kind == "gene" else "keep one row per sample",
            )
    values = _numbers(frame, step=step)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InvalidTable(
            "The expression table holds missing or infinite values.",
            case=str(frame.index[row]),
            step=step,
            field=str(frame.columns[column]),
            expected="finite numbers",
            got=f"{int(bad.sum())} such values",
            remedy="drop or impute them within the training samples",
        )
    return values


def prepare_expression(frame: pd.DataFrame, *, unit: Unit, duplicates: Merge = "mean") -> PreparedExpression:
    """Return log2(x + 1) of FPKM, TPM or counts; a table on the log2 scale stays as it is.

    Parameters
    ----------
    frame
        Samples x genes. A gene that stands more than once is aggregated on the scale given.
    unit
        What the values are. ``log2`` covers microarrays, whose values may be negative after centring.
    duplicates
        ``mean`` or ``max`` of the columns of one gene.

    Raises
    ------
    InvalidTable
        Where FPKM, TPM or counts are negative, counts have fractions, or values that should be linear look logged.
    """
    step = "prepare_expression"
    if unit not in get_args(Unit):
        raise InvalidValue("Unknown unit of expression.", step=step, field="unit", expected=get_args(Unit), got=unit)
    if unit == "counts":
        _require_whole(frame, _numbers(frame, step=step))
    merged = merge_duplicates(frame, how=duplicates)
    counted = frame.columns[frame.columns.duplicated(keep=False)].value_counts()
    values = check_expression(merged, step=step)
    if unit != "log2":
        _require_linear(merged, values, unit)
        values = np.log2(values + 1.0)
    elif values.max() > _LARGEST_LOG2:
        raise InvalidTable(
            "Values are too large for a log2 scale.",
            step=step,
            expected=f"at most {_LARGEST_LOG2:g}",
            got=f"{values.max():g}",
            remedy='state the unit: "fpkm", "tpm" or "counts"',
        )
    constant = np.ptp(values, axis=0) == 0
    return PreparedExpression(
        values=pd.DataFrame(values, index=merged.index, columns=merged.columns),
        gene_ids=gene_id_kind(merged.columns),
        merged={str(gene): int(count) for gene, count in sorted(counted.items())},
        constant=tuple(str(gene) for gene in merged.columns[constant]),
    )


def detect_scale(frame: pd.DataFrame) -> Scale:
    """Return what a table's values look like: whole counts, another linear scale, or a logarithm.

    Negative values or none above 30 mean a logarithm (2**30 exceeds any count); small tables of small counts
    therefore need their unit stated.
    """
    values = _numbers(frame, step="detect_scale")
    finite = values[np.isfinite(values)]
    if finite.size and (finite.min() < 0 or finite.max() <= _LARGEST_LOG2):
        return "log2" if (finite != np.round(finite)).any() else "counts"
    return "counts" if (finite == np.round(finite)).all() else "linear"


def check_counts(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Return whole, non-negative read counts, shape (samples, genes); floats that are whole count as such.

    Raises
    ------
    InvalidTable
        Where a count is negative or has a fraction.
    """
    values = check_expression(frame, step="check_counts")
    _require_whole(frame, values)
    return values.astype(np.int64)


def _require_whole(frame: pd.DataFrame, values: FloatArray) -> None:
    step = "check_counts"
    if (values < 0).any():
        raise _negative(frame, values, "counts", step)
    fractions = np.isfinite(values) & (values != np.round(values))
    if fractions.any():
        row, column = np.argwhere(fractions)[0]
        raise InvalidTable(
            "Read counts must be whole numbers.",
            case=str(frame.index[row]),
            step=step,
            field=str(frame.columns[column]),
            expected="whole numbers",
            got=f"{values[row, column]:g}, and {int(fractions.sum()) - 1} other fractions",
            remedy="round expected counts (RSEM, salmon) yourself, or state the unit that the table has",
        )


def merge_duplicates(frame: pd.DataFrame, *, how: Merge = "mean") -> pd.DataFrame:
    """Return the table with one column a gene, in order of first occurrence."""
    if how not in get_args(Merge):
        raise InvalidValue("Unknown aggregation.", step="merge_duplicates", expected=get_args(Merge), got=how)
    if frame.columns.is_unique:
        return frame
    grouped = frame.T.groupby(level=0, sort=False)
    merged: pd.DataFrame = (grouped.mean() if how == "mean" else grouped.max()).T
    return merged


def gene_id_kind(genes: Iterable[object]) -> GeneIds:
    """Return whether genes are named by symbol, Entrez or Ensembl id; ``mixed`` where under 90 % agree."""
    names = [str(gene) for gene in genes]
    entrez = sum(bool(_ENTREZ.match(name)) for name in names)
    ensembl = sum(bool(_ENSEMBL.match(name)) for name in names)
    counts: dict[GeneIds, int] = {"entrez": entrez, "ensembl": ensembl, "symbol": len(names) - entrez - ensembl}
    kind = max(counts, key=lambda k: counts[k])
    return kind if counts[kind] >= 0.9 * len(names) else "mixed"


def require_overlap(genes: Iterable[object], others: Iterable[object], *, step: str, least: int = 1) -> tuple[str, ...]:
    """Return the genes that both name, in the first one's order.

    Raises
    ------
    IdMismatch
        Where fewer than ``least`` are common; tells which kinds of identifier met.
    """
    first, second = [str(g) for g in genes], [str(g) for g in others]
    known = set(second)
    common = tuple(gene for gene in first if gene in known)
    if len(common) < least:
        raise IdMismatch(
            "The gene identifiers of two inputs hardly overlap.",
            step=step,
            expected=f"at least {least} common genes",
            got=f"{len(common)} ({gene_id_kind(first)} such as {_some(first, 2)}; "
            f"{gene_id_kind(second)} such as {_some(second, 2)})",
            remedy="bring both to the same kind of identifier, HGNC symbols preferably",
        )
    return common


def take_genes(frame: pd.DataFrame, genes: Iterable[str]) -> pd.DataFrame:
    """Return the named genes' columns in the order named.

    Raises
    ------
    IdMismatch
        Where the table (a new platform, say) lacks one; it is never filled in.
    """
    wanted = list(genes)
    missing = [gene for gene in wanted if gene not in frame.columns]
    if missing:
        raise IdMismatch(
            f"{len(missing)} of {len(wanted)} needed genes are not in the expression table.",
            step="take_genes",
            field=_some(missing),
            expected=f"{gene_id_kind(wanted)} identifiers",
            got=f"{frame.shape[1]} genes with {gene_id_kind(frame.columns)} identifiers",
            remedy="map aliases to the signature's symbols, or refit without genes that the platform lacks",
        )
    return frame[wanted]


def fit_low_expression_filter(
    frame: pd.DataFrame, *, least: float = 1.0, in_fraction: float = 0.2, drop_constant: bool = True
) -> GeneSelection:
    """Choose genes that are expressed in enough training samples.

    Parameters
    ----------
    frame
        Training samples x genes, on the scale of ``least``.
    least, in_fraction
        A gene stays where at least ``in_fraction`` of the samples reach ``least``.
    drop_constant
        Whether genes that do not vary go too.
    """
    step = "fit_low_expression_filter"
    values = check_expression(frame, step=step)
    if not 0 <= in_fraction <= 1:
        raise InvalidValue("A fraction lies in [0, 1].", step=step, field="in_fraction", got=in_fraction)
    kept = (values >= least).sum(axis=0) >= in_fraction * len(frame)
    if drop_constant:
        kept &= np.ptp(values, axis=0) > 0
    if not kept.any():
        raise TooFewCases(
            "No gene passes the filter of low expression.",
            step=step,
            expected=f"a gene with at least {least:g} in {in_fraction:.0%} of {len(frame)} samples",
            got=f"largest value {values.max():g}",
            remedy="lower the threshold, or state it on the table's scale",
        )
    names = frame.columns.astype(str)
    return GeneSelection(genes=tuple(names[kept]), dropped=tuple(names[~kept]))


def _require_linear(frame: pd.DataFrame, values: FloatArray, unit: Unit) -> None:
    step = "prepare_expression"
    if values.min() < 0:
        raise _negative(frame, values, unit, step)
    if detect_scale(frame) == "log2":
        raise InvalidTable(
            f"The table is called {unit} but looks already logged.",
            step=step,
            expected=f"{unit} with values above {_LARGEST_LOG2:g}",
            got=f"fractions with a maximum of {values.max():g}",
            remedy='state unit="log2"',
        )


def _negative(frame: pd.DataFrame, values: FloatArray, unit: str, step: str) -> InvalidTable:
    row, column = np.argwhere(values < 0)[0]
    return InvalidTable(
        f"Negative values cannot be {unit}.",
        case=str(frame.index[row]),
        step=step,
        field=str(frame.columns[column]),
        expected="values of at least 0",
        got=f"{values[row, column]:g}, and {int((values < 0).sum()) - 1} other negative values",
        remedy='state unit="log2" where the table is logged or centred',
    )


def _numbers(frame: pd.DataFrame, *, step: str) -> FloatArray:
    try:
        return frame.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as exc:
        text = [str(column) for column, kind in frame.dtypes.items() if pd.api.types.is_object_dtype(kind)]
        raise InvalidTable(
            "The expression table holds text.", step=step, field=_some(text), expected="numbers", got=str(exc)
        ) from exc


def _some(names: Iterable[object], most: int = 5) -> str:
    shown = [str(name) for name in names]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")

"""A publisher's expression matrix → samples x genes by symbol on a scale that is stated, and joined to its patients.

What is put right is counted: repeated symbols (their mean), rows without a symbol, genes that some sample lacks. What
would give a wrong result is an error: Entrez numbers, negative FPKM, values that are logged already.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipelines.genomics.expression import (
    check_counts,
    check_expression,
    gene_id_kind,
    merge_duplicates,
    prepare_expression,
)
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable

Unit = Literal["log2", "z-score", "linear", "counts"]

_EXTREME = 10.0
_DATE = re.compile(r"\d{1,2}-(mar|sep|dec|oct|apr|feb|nov)|(mar|sep|dec|oct|apr|feb|nov)-\d{1,2}", re.I)
_WITH_ENTREZ = re.compile(r"^([^|]+)\|\d+$")
_VERSION = re.compile(r"^(ENS[A-Z]*G\d{11})\.\d+(_PAR_Y)?$")

# Families whose members are written with a hyphen by HGNC, where R's make.names put a dot.
_HYPHENATED = re.compile(
    r"""
    HLA\.[A-Z0-9]+ | NKX\d\.\d+ | KRTAP\d+\.\d+ | MT\.[A-Z0-9]+ | MIR\d+\.\d+ | SNOR[AD]\d+\.\d+ | VTRNA\d\.\d+
    | IG[HKL]V\d+D?\.\d+ | TR[ABDG]V\d+\.\d+ | ERV[A-Z0-9]+\.\d+ | XAGE\.\d+
    | [A-Z0-9]+\.(?:AS|IT|OT|DT)\d*
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class ExpressionValues:
    """A matrix that is ready to become a cohort's.

    Parameters
    ----------
    values
        Samples x genes: log2 expression, z-scores, or whole read counts.
    counted
        What was merged, left out or is worth knowing, by kind.
    """

    values: pd.DataFrame
    counted: dict[str, int]


def expression_values(
    frame: pd.DataFrame, *, unit: Unit, step: str, ensembl: bool = False, asked: bool = False
) -> ExpressionValues:
    """Return a matrix with one column a gene; linear values become log2(x + 1).

    Parameters
    ----------
    frame
        Samples x genes as published; names may repeat.
    unit
        What the values are: on a log2 scale, z-scores, linear (FPKM, TPM, RSEM) or read counts.
    step
        The importer that an error names.
    ensembl
        Whether Ensembl ids may name the genes; their version is cut off.
    asked
        Whether the user states ``unit``: linear values then count as linear, however small they are.

    Raises
    ------
    InvalidTable
        Where genes are named by Entrez numbers, values are text, infinite or contradict ``unit``.
    DuplicateId
        Where a sample stands twice.
    """
    counted: dict[str, int] = {}
    named = numeric_values(_with_gene_names(frame, counted, step=step, ensembl=ensembl), step=step)
    empty = named.isna().any(axis=0).to_numpy()
    if empty.any() and not empty.all():
        counted["genes left out that a sample lacks"] = int(empty.sum())
        named = named.loc[:, ~empty]
    if unit == "counts":
        if not named.columns.is_unique:
            summed = named.T.groupby(level=0, sort=False).sum().T
            counted["gene columns merged with another of the same symbol"] = named.shape[1] - summed.shape[1]
            named = summed
        values = pd.DataFrame(check_counts(named), index=named.index, columns=named.columns)
    elif unit == "z-score":
        values = merge_duplicates(named)
        values = pd.DataFrame(check_expression(values, step=step), index=values.index, columns=values.columns)
        if extreme := int((values.abs() > _EXTREME).to_numpy().sum()):
            counted[f"z-scores beyond {_EXTREME:g} in size"] = extreme
    elif unit == "linear" and asked:
        values = merge_duplicates(named)
        linear = check_expression(values, step=step)
        if linear.min() < 0:
            raise InvalidTable(
                "linear values are negative", step=step, expected="0 or more", got=f"{linear.min():g}", field="scale"
            )
        values = pd.DataFrame(np.log2(linear + 1), index=values.index, columns=values.columns)
    else:
        values = prepare_expression(named, unit="fpkm" if unit == "linear" else "log2").values
    if unit != "counts" and values.shape[1] < named.shape[1]:
        counted["gene columns merged with another of the same symbol"] = named.shape[1] - values.shape[1]
    constant = int((np.ptp(values.to_numpy(), axis=0) == 0).sum())
    if constant and len(values) > 1:
        counted["genes that do not vary"] = constant
    return ExpressionValues(values.sort_index(axis="columns"), counted)


def numeric_values(frame: pd.DataFrame, *, step: str) -> pd.DataFrame:
    """Return a matrix of samples x genes as float64, NaN where missing.

    Raises
    ------
    InvalidTable
        Naming sample and gene of the first value that is text.
    """
    kinds = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    if all(kinds):
        return frame
    written = frame.to_numpy(dtype=object)
    numbers = pd.to_numeric(pd.Series(written.ravel()), errors="coerce").to_numpy(np.float64).reshape(written.shape)
    strange = np.isnan(numbers) & ~pd.isna(written)
    if strange.any():
        row, column = np.argwhere(strange)[0]
        raise InvalidTable(
            "the matrix holds text",
            case=str(frame.index[row]),
            step=step,
            field=str(frame.columns[column]).strip() or "a gene without a name",
            expected="numbers",
            got=f"{written[row, column]}; {int(strange.sum())} such values",
        )
    return pd.DataFrame(numbers, index=frame.index, columns=frame.columns)


def mend_r_names(genes: Iterable[object]) -> tuple[list[str], int]:
    """Return gene names with the hyphens that R's ``make.names`` turned into dots, and how many were mended.

    Only families whose members HGNC always hyphenates are mended (HLA-A, NKX2-1, antisense ``-AS1``, immunoglobulin
    and T cell receptor segments …), and only where the table has no gene of the mended name; other dots stay, since
    clone-based names (AC004893.11) rightly have one.
    """
    names = [str(gene) for gene in genes]
    known = set(names)
    mended = 0
    for position, name in enumerate(names):
        if "." in name and _HYPHENATED.fullmatch(name):
            better = name.replace(".", "-")
            if better not in known:
                names[position] = better
                mended += 1
    return names, mended


def join_expression(
    clinical: pd.DataFrame, values: pd.DataFrame, *, step: str
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, str]]:
    """Return clinical table and matrix of the patients that both have, and the reason by patient for the others.

    The matrix comes back indexed by case label.

    Raises
    ------
    IdMismatch
        Where they share no patient.
    """
    common = clinical.index.intersection(values.index).sort_values()
    if common.empty:
        raise IdMismatch(
            "expression and clinical table share no patient",
            step=step,
            expected=f"clinical identifiers such as {', '.join(map(str, clinical.index[:3]))}",
            got=f"samples such as {', '.join(map(str, values.index[:3]))}",
        )
    dropped = dict.fromkeys(map(str, values.index.difference(clinical.index)), "no clinical row")
    dropped |= dict.fromkeys(map(str, clinical.index.difference(values.index)), "no expression")
    matrix = values.loc[common]
    matrix.index = pd.Index([case_label(str(name)) for name in common], name="case_id")
    return clinical.loc[common], matrix, dropped


def check_samples(values: pd.DataFrame, *, file: str, step: str) -> None:
    """Check that no sample of a matrix occurs twice."""
    repeated = values.index[values.index.duplicated()]
    if len(repeated):
        raise DuplicateId("a sample occurs more than once", case=str(repeated[0]), step=step, field=file)


def _with_gene_names(frame: pd.DataFrame, counted: dict[str, int], *, step: str, ensembl: bool) -> pd.DataFrame:
    names = pd.Series(["" if pd.isna(name) else str(name).strip() for name in frame.columns], dtype=object)
    names = names.str.replace(_WITH_ENTREZ, r"\1", regex=True)
    nameless = names.isin(["", "?", "NA", "nan", "---"]).to_numpy()
    if nameless.any():
        counted["genes left out that have no symbol"] = int(nameless.sum())
    if ensembl:
        nameless |= names.str.endswith("_PAR_Y").to_numpy()
        names = names.str.replace(_VERSION, r"\1", regex=True)
    kept = names[~nameless]
    kind = gene_id_kind(kept) if len(kept) else "symbol"
    if kind == "entrez" or (kind == "ensembl" and not ensembl) or not len(kept):
        raise InvalidTable(
            "genes are not named by symbol",
            step=step,
            field="genes",
            expected="HGNC symbols" + (" or Ensembl ids" if ensembl else ""),
            got=f"{kind} identifiers such as {', '.join(kept[:3])}" if len(kept) else "no gene",
            remedy="map the identifiers to symbols with the platform's annotation",
        )
    if kind == "ensembl":
        counted["genes named by Ensembl id"] = len(kept)
    numbers = int(kept.str.fullmatch(r"\d+").sum())
    dates = int(kept.str.fullmatch(_DATE).sum())
    strange = {"genes named by a number": numbers, "genes whose symbol a spreadsheet turned into a date": dates}
    counted |= {what: count for what, count in strange.items() if count}
    table = frame.loc[:, ~nameless]
    table.columns = pd.Index(kept.to_numpy(dtype=object))
    return table

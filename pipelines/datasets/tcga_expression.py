"""Expression of TCGA's gliomas as UCSC Xena, cBioPortal or a paper's supplement lay it out: a delimited matrix.

Genes x samples or samples x genes, told by where the TCGA barcodes stand. Xena: first column ``sample``, ``gene`` or
``Ensembl_ID`` (with a ``*.probeMap`` beside, Ensembl ids become symbols). cBioPortal: ``Hugo_Symbol`` and
``Entrez_Gene_Id``. Verhaak et al. (Cancer Cell 2010): a line ``Subtype``, the first, with the expression subtype.

One row a patient: primary tumours stay (sample type 01; a patient's first sample), recurrent ones are dropped with
their reason, and normal tissue (11) stays as a row of its own, marked in ``tissue``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of
from pipelines.datasets.expression_values import Unit, check_samples, expression_values, numeric_values
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import (
    plain_name,
    read_header,
    read_text_table,
    read_value_table,
    require_columns,
    tables_in,
)
from pipelines.datasets.tcga import BARCODE
from pipelines.genomics.expression import detect_scale
from services.shared.contracts import case_label
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound

STEP = "import tcga_expression"
_LICENCE = "TCGA open-access data (NIH); cite TCGA and the portal that the matrix comes from."
_SAMPLE = re.compile(rf"({BARCODE})(?:-(\d{{2}})[A-Z]?(?:-.*)?)?")
_SYMBOL_COLUMNS = ("hugosymbol", "genesymbol", "symbol", "genename", "gene")
_ID_COLUMNS = ("sample", "ensemblid", "geneid", "clid", "id", "case", "patient", "barcode", "sampleid", "")
_ANNOTATION = ("entrezgeneid", "entrezid", "cytoband", "description")
_TUMOUR, _NORMAL = ("01",), ("10", "11", "12", "14")
_MEANINGS = {
    "tissue": "tumour (sample type 01) or normal (11)",
    "sample_type": "TCGA's code of the sample type, 01 where the barcode is a patient's",
    "expression_subtype": "Expression subtype that the matrix's second header line states",
}
_LARGEST_LOG2 = 30.0
_ROUNDING = 1e-3


@dataclass(frozen=True)
class _Matrix:
    """Samples x genes as published, and what a second header line says of the samples."""

    path: Path
    values: pd.DataFrame
    subtype: pd.Series | None
    annotation: int


def read_release(source: Path, *, participants: Path | None = None, scale: Unit | None = None) -> Release:
    """Read an expression matrix of TCGA samples.

    Parameters
    ----------
    source
        The matrix (TSV or CSV, plain, gzipped or zipped), or a folder: of several matrices there, those of one kind
        (LGG and GBM, say) become one.
    participants
        A clinical table; TCGA's clinical folder adds age, sex, grade, molecular status and survival.
    scale
        What the published values are. Without it, the file's name and the range of its values tell: none above 30 is
        taken as logged, which is wrong for FPKM of genes that are all lowly expressed. The counts state what was taken.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no matrix, or it is no table.
    InvalidTable, DuplicateId, IdMismatch
        Where no barcode is found, genes are Entrez numbers, values contradict their scale or that of another matrix, or
        a sample stands twice.
    """
    parts = [_read(path) for path in _files(source)]
    kept, dropped = _samples_of_patients(parts)
    counted: dict[str, int] = {}
    matrices: dict[str, pd.DataFrame] = {}
    scales: dict[str, str] = {}
    sources: list[Path] = []
    for part in parts:
        own = kept[kept["sample"].isin(part.values.index)]
        values, maps = _by_symbol(part.values.loc[own["sample"]], part.path, counted)
        unit, said = _scale_of(values, part.path.name, scale)
        taken = f"matrices taken as {unit}, " + ("as asked" if scale else "by the range of values and the file's name")
        counted[taken] = counted.get(taken, 0) + 1
        found = expression_values(
            _whole_counts(values) if unit == "counts" else values,
            unit=unit,
            step=STEP,
            ensembl=True,
            asked=scale is not None,
        )
        table = found.values.set_axis([case_label(name) for name in own["source_id"]], axis="index")
        name = "counts" if unit == "counts" else "expression"
        if scales.setdefault(name, said) != said:
            raise InvalidTable(
                "matrices of one folder are on different scales",
                step=STEP,
                field=part.path.name,
                expected=scales[name],
                got=said,
                remedy="import one of them, or keep them in folders of their own",
            )
        matrices[name] = _united(matrices.get(name), table, name, counted)
        for what, count in {**found.counted, "columns of annotation": part.annotation}.items():
            counted[what] = counted.get(what, 0) + count
        sources.extend([part.path, *maps])
    clinical = kept[["tissue", "sample_type"]].set_index(kept["source_id"])
    subtypes = [part.subtype for part in parts if part.subtype is not None]
    if subtypes:
        clinical["expression_subtype"] = pd.concat(subtypes).reindex(kept["sample"]).to_numpy()
    release = Release(
        name="tcga_expression",
        participants=participants_of(clinical),
        meanings={name: meaning for name, meaning in _MEANINGS.items() if name in clinical},
        matrices=matrices,
        scale=scales,
        dropped=dropped,
        counted={what: count for what, count in counted.items() if count},
        sources=hashes(set(sources)),
        licence=_LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _files(source: Path) -> list[Path]:
    """The file, or the tables of a folder whose header names TCGA samples."""
    if source.is_file():
        return [source]
    tables = tables_in(source) if source.is_dir() else []
    found = [path for path in tables if any(map(_is_sample, read_header(path, step=STEP)))]
    found = found or (tables if len(tables) == 1 else [])
    if not found:
        raise NotFound(
            "the folder holds no matrix of TCGA samples" if source.is_dir() else "there is no such file or folder",
            step=STEP,
            field=source.name,
            expected="a .tsv, .txt or .csv, plain or .gz, with TCGA barcodes in its header",
            got=", ".join(path.name for path in tables[:8]) or "none",
            remedy="name the file",
        )
    return found


def _united(before: pd.DataFrame | None, table: pd.DataFrame, name: str, counted: dict[str, int]) -> pd.DataFrame:
    """Patients of several files (LGG and GBM, say) below each other, with the genes that all have."""
    if before is None:
        return table
    repeated = before.index.intersection(table.index)
    if len(repeated):
        raise DuplicateId(
            "a patient stands in two matrices of the folder",
            case=str(repeated[0]),
            step=STEP,
            field=name,
            got=f"{len(repeated)} such patients",
            remedy="keep one of the files in the folder",
        )
    united = pd.concat([before, table], join="inner")
    if united.shape[1] == 0:
        raise IdMismatch(
            "matrices of one folder share no gene", step=STEP, field=name, expected="the same kind of genes"
        )
    what = "genes that another matrix of the folder lacks"
    counted[what] = counted.get(what, 0) + max(before.shape[1], table.shape[1]) - united.shape[1]
    return united


def _read(path: Path) -> _Matrix:
    frame = read_value_table(path, step=STEP)
    names = [plain_name(name) for name in frame.columns]
    barcodes = [_is_sample(name) for name in frame.columns]
    if sum(barcodes) >= 1:
        return _genes_by_samples(frame, names, np.array(barcodes), path)
    first = frame.iloc[:, 0].astype(str)
    if not first.map(_is_sample).all() or frame.empty:
        raise InvalidTable(
            "neither the columns nor the first column are TCGA barcodes",
            step=STEP,
            field=path.name,
            expected="TCGA-XX-XXXX-01, as columns or rows",
            got=f"columns {', '.join(map(str, frame.columns[:4]))}; rows {', '.join(first[:3])}",
        )
    values = frame.iloc[:, 1:]
    values.index = pd.Index(first.map(_barcode))
    return _checked(values, path, None, 0)


def _genes_by_samples(frame: pd.DataFrame, names: list[str], barcodes: np.ndarray, path: Path) -> _Matrix:
    left = [name for name, of_sample in zip(names, barcodes, strict=True) if not of_sample]
    column = next((name for name in (*_SYMBOL_COLUMNS, *_ID_COLUMNS) if name in left), None)
    if column is None:
        raise InvalidTable(
            "no column names the genes",
            step=STEP,
            field=path.name,
            expected="Hugo_Symbol, gene, sample or Ensembl_ID",
            got=", ".join(map(str, frame.columns[~barcodes][:5])) or "columns of samples alone",
            remedy="map Entrez numbers to symbols with the platform's annotation" if "entrezgeneid" in left else None,
        )
    genes = frame.iloc[:, names.index(column)]
    values = frame.loc[:, barcodes]
    subtype = None
    of_subtype = (genes.astype(str).str.strip().str.lower() == "subtype").to_numpy()
    if of_subtype.sum() == 1:
        written = values[of_subtype].iloc[0].astype(str).str.strip()
        subtype = written.set_axis([_barcode(name) for name in values.columns])
        values, genes = values[~of_subtype], genes[~of_subtype]
    samples = values.T
    samples.index = pd.Index([_barcode(name) for name in values.columns])
    samples.columns = pd.Index(genes)
    return _checked(samples, path, subtype, len(left) - 1)


def _checked(values: pd.DataFrame, path: Path, subtype: pd.Series | None, annotation: int) -> _Matrix:
    check_samples(values, file=path.name, step=STEP)
    return _Matrix(path, numeric_values(values, step=STEP), subtype, annotation)


def _is_sample(name: object) -> bool:
    return _SAMPLE.fullmatch(_barcode(name)) is not None


def _barcode(name: object) -> str:
    return str(name).strip().upper().replace(".", "-").replace("_", "-")


def _samples_of_patients(parts: list[_Matrix]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Samples that stay, sorted, with the identifier of their row, tissue and type; the reason for each other one."""
    rows = []
    dropped: dict[str, str] = {}
    seen: set[str] = set()
    for sample in sorted({str(name) for part in parts for name in part.values.index}):
        match = _SAMPLE.fullmatch(sample)
        if match is None:
            dropped[sample] = "no TCGA barcode"
            continue
        kind = match[2] or "01"
        if kind not in (*_TUMOUR, *_NORMAL):
            dropped[sample] = "recurrent tumour" if kind == "02" else f"sample type {kind}, no primary tumour"
            continue
        source_id = match[1] if kind in _TUMOUR else f"{match[1]}-{kind}"
        if source_id in seen:
            dropped[sample] = "a further sample of a patient who stays"
            continue
        seen.add(source_id)
        rows.append((sample, source_id, "tumour" if kind in _TUMOUR else "normal", kind))
    if not rows:
        raise InvalidTable(
            "the matrix holds no primary tumour and no normal tissue",
            step=STEP,
            expected="barcodes of sample type 01 or 11",
            got=f"{len(dropped)} other samples",
        )
    return pd.DataFrame(rows, columns=["sample", "source_id", "tissue", "sample_type"]), dropped


def _by_symbol(values: pd.DataFrame, path: Path, counted: dict[str, int]) -> tuple[pd.DataFrame, list[Path]]:
    """Symbols in place of Ensembl ids where Xena's ``probeMap`` lies beside the matrix."""
    maps = sorted(path.parent.glob("*.probeMap"))
    if len(maps) != 1:
        return values, []
    annotation = read_text_table(maps[0], step=STEP)
    require_columns(annotation, ("id", "gene"), file=maps[0].name, step=STEP)
    symbol = annotation.drop_duplicates("id").set_index("id")["gene"]
    names = symbol.reindex(values.columns).fillna("")
    if 2 * int((names != "").sum()) < len(names):
        return values, []
    counted["genes named by Ensembl id that became symbols"] = int((names != "").sum())
    return values.set_axis(names.to_numpy(dtype=object), axis="columns"), maps


def _scale_of(values: pd.DataFrame, file: str, stated: Unit | None) -> tuple[Unit, str]:
    """What the values are, as stated, else by their range and by what the file's name says of them."""
    numbers = values.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    name = file.lower()
    kind = next((words for words in ("fpkm", "tpm", "rsem", "hiseqv2") if words in name), None)
    label = {"fpkm": "FPKM", "tpm": "TPM", "rsem": "RSEM", "hiseqv2": "RSEM normalised count"}.get(kind or "", "x")
    if not finite.size:
        raise InvalidTable("the matrix holds no number", step=STEP, field=file, expected="expression values")
    logged = f"log2({label} + 1)" if kind else "log2 expression"
    if stated in ("log2", "linear"):
        return stated, logged if stated == "log2" else f"log2({label} + 1)"
    if stated == "z-score" or (stated is None and "zscore" in plain_name(file)):
        return "z-score", "z-score of expression"
    whole = stated == "counts" or (kind is None and finite.max() > _LARGEST_LOG2 and detect_scale(values) == "counts")
    if whole or ("count" in name and "norm" not in name):
        return "counts", "read counts"
    if abs(finite.min() - np.log2(0.001)) < 0.01:
        return "log2", f"log2({label} + 0.001)"
    if finite.min() < 0 and finite.max() <= _LARGEST_LOG2 and kind in (None, "hiseqv2"):
        return "log2", "log2 expression, centred per gene"
    if finite.min() >= 0 and finite.max() <= _LARGEST_LOG2:
        return "log2", logged
    return "linear", f"log2({label} + 1)"


def _whole_counts(values: pd.DataFrame) -> pd.DataFrame:
    """Read counts of log2(count + 1), as Xena stores them; others stay and are checked as they are."""
    numbers = values.to_numpy(dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    if finite.max() > _LARGEST_LOG2 or finite.min() < 0 or (finite == np.round(finite)).all():
        return values
    counts = np.exp2(numbers) - 1
    whole = np.round(counts)
    if np.nanmax(np.abs(counts - whole) / np.maximum(whole, 1)) > _ROUNDING:
        raise InvalidTable(
            "logged values are no logarithm of read counts",
            step=STEP,
            expected="log2(count + 1) of whole counts",
            got="fractions after taking the logarithm back",
            remedy="name the file after its unit, such as fpkm or tpm",
        )
    return pd.DataFrame(whole, index=values.index, columns=values.columns)

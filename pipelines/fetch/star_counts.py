"""Gene x sample matrices from the GDC's STAR gene counts, one file a sample, in bounded memory.

A file holds a comment with its gene model, a header, four rows of reads that count for no gene (``N_unmapped`` …) and
one row a gene with ``unstranded`` counts, ``tpm_unstranded`` and ``fpkm_unstranded`` (GDC mRNA Analysis Pipeline). The
matrices are collected sample by sample in files on disk and written gene block by gene block.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd

from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, UnreadableFile

MATRICES = {"counts.tsv": "unstranded", "fpkm.tsv": "fpkm_unstranded", "tpm.tsv": "tpm_unstranded"}
"""The column of the publisher's files that each matrix holds."""
SAMPLES = "samples.tsv"
_NO_GENE = ("N_unmapped", "N_multimapping", "N_noFeature", "N_ambiguous")
_ON_Y = "_PAR_Y"
_BLOCK = 2048


@dataclass(frozen=True)
class Sample:
    """One column of the matrices: barcodes as the GDC writes them, and the file below OUT that holds its counts."""

    sample: str
    patient: str
    project: str
    sample_type: str
    aliquot: str
    file: str


def read_star_counts(path: Path) -> pd.DataFrame:
    """Return one file: index ``gene_id``, columns ``gene_name`` and those of :data:`MATRICES`.

    A gene of the pseudo-autosomal regions stands twice, its copy on Y without a read since the reference masks it; the
    copy's name gets ``_PAR_Y`` as its id has, or whoever merges genes of one name would halve the gene.

    Raises
    ------
    UnreadableFile, InvalidTable, DuplicateId
        Where the file is no table, lacks a column, repeats a gene, or holds what is no count.
    """
    wanted = ["gene_id", "gene_name", *MATRICES.values()]
    try:
        with path.open("rb") as file:
            comments = 0
            while file.readline().startswith(b"#"):
                comments += 1
        table = pd.read_csv(path, sep="\t", skiprows=comments, dtype={"gene_id": str, "gene_name": str})
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UnreadableFile(
            "the file is no table of STAR gene counts", step="assemble", field=path.name, got=str(error)
        ) from None
    missing = [name for name in wanted if name not in table]
    if missing:
        raise InvalidTable(
            "the file lacks columns",
            step="assemble",
            field=path.name,
            expected=", ".join(wanted),
            got=f"without {', '.join(missing)}",
        )
    genes = table.loc[~table["gene_id"].isin(_NO_GENE), wanted].set_index("gene_id")
    if genes.index.has_duplicates:
        raise DuplicateId(
            "the file names a gene twice",
            step="assemble",
            field=path.name,
            got=str(genes.index[genes.index.duplicated()][0]),
        )
    try:
        values = genes[list(MATRICES.values())].astype(float)
    except ValueError as error:
        raise InvalidTable("a value is no number", step="assemble", field=path.name, got=str(error)) from None
    if not len(genes) or not np.isfinite(values.to_numpy()).all() or (values.to_numpy() < 0).any():
        raise InvalidTable(
            "a value is missing or negative", step="assemble", field=path.name, expected="values from 0 on"
        )
    twin = np.where(genes.index.str.endswith(_ON_Y), _ON_Y, "")
    return values.assign(gene_name=genes["gene_name"].fillna("") + twin)


def write_matrices(out: Path, *, samples: Sequence[Sample]) -> list[str]:
    """Write :data:`MATRICES` (genes x samples) and the sheet of samples below ``out``, and return their paths.

    The first two columns are ``gene_id`` (Ensembl, with version) and ``gene_name``; then one column a sample.

    Raises
    ------
    IdMismatch
        Where two files do not list the same genes.
    """
    scratch = Path(tempfile.mkdtemp(prefix=".assemble-", dir=out))
    try:
        first = read_star_counts(out / samples[0].file)
        stores = {name: scratch / f"{name}.float64" for name in MATRICES}
        for row, sample in enumerate(samples):
            table = first if row == 0 else read_star_counts(out / sample.file)
            if not table.index.equals(first.index):
                raise IdMismatch(
                    "files list different genes",
                    step="assemble",
                    field=sample.file,
                    expected=f"{len(first)} genes as in {samples[0].file}",
                    got=f"{len(table)} genes",
                    remedy="fetch into an empty folder: the files stem from different data releases",
                )
            for name, column in MATRICES.items():
                with stores[name].open("ab") as store:
                    table[column].to_numpy(dtype=np.float64).tofile(store)
        columns = [sample.sample for sample in samples]
        for name in MATRICES:
            _write_transposed(scratch / name, stores[name], first["gene_name"], columns)
            (scratch / name).replace(out / name)
        sheet = pd.DataFrame([[getattr(s, f.name) for f in fields(Sample)] for s in samples])
        sheet.columns = pd.Index([f.name for f in fields(Sample)])
        sheet.to_csv(scratch / SAMPLES, sep="\t", index=False, lineterminator="\n")
        (scratch / SAMPLES).replace(out / SAMPLES)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [*MATRICES, SAMPLES]


def _write_transposed(path: Path, store: Path, names: pd.Series, columns: Sequence[str]) -> None:
    """Write samples x genes as genes x samples, a block of genes at a time; a number keeps all its digits."""
    for begin in range(0, len(names), _BLOCK):
        genes = names.iloc[begin : begin + _BLOCK]
        block = pd.DataFrame(
            {sample: _part(store, row * len(names) + begin, len(genes)) for row, sample in enumerate(columns)},
            index=genes.index,
        )
        if (block % 1 == 0).all(axis=None):
            block = block.astype(np.int64)
        block.insert(0, "gene_name", genes)
        block.to_csv(path, sep="\t", mode="a", header=begin == 0, lineterminator="\n")


def _part(store: Path, begin: int, count: int) -> np.ndarray:
    return np.fromfile(store, dtype=np.float64, count=count, offset=begin * np.dtype(np.float64).itemsize)

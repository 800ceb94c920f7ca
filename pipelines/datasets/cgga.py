"""Chinese Glioma Genome Atlas (Zhao et al., Genomics Proteomics Bioinformatics 2021): mRNAseq_693 and mRNAseq_325.

A clinical table (overall survival in days) and, where they lie beside it, FPKM by RSEM (``…RSEM-genes…``) and read
counts (``…Read_Counts-genes…``), genes x samples. Identifiers of the two batches are not the same patients': where both
are read, the batch is part of a patient's identifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipelines.datasets import codings
from pipelines.datasets.checks import check_release
from pipelines.datasets.clinical import hashes, join_clinical, participants_of, whole_follow_up
from pipelines.datasets.expression_values import check_samples, expression_values, join_expression
from pipelines.datasets.release import Release
from pipelines.datasets.source_tables import (
    index_by,
    plain_name,
    read_text_table,
    read_value_table,
    require_columns,
    tables_in,
    with_plain_names,
)
from pipelines.genomics.expression import require_overlap
from services.shared.errors import InvalidTable, NotFound

STEP = "import cgga"
_LICENCE = "CGGA (cgga.org.cn), free for research: cite Zhao et al., Genomics Proteomics Bioinformatics 2021;19:1."
_BATCH = re.compile(r"mrnaseq[_-]?(693|325)", re.I)
_COLUMNS: dict[str, str] = {
    "age": "age_years",
    "gender": "sex",
    "grade": "grade",
    "histology": "histology",
    "idhmutationstatus": "idh",
    "1p19qcodeletionstatus": "codeletion_1p19q",
    "mgmtpmethylationstatus": "mgmt",
    "os": "os_months",
    "censoralive0dead1": "event",
    "prstype": "prs_type",
    "radiostatustreated1untreated0": "radiotherapy",
    "chemostatustmztreated1untreated0": "chemotherapy",
}
_NEEDED = ("cggaid", "os", "censoralive0dead1")
_MEANINGS: dict[str, str] = {
    "prs_type": "Primary, recurrent or secondary tumour at sampling",
    "radiotherapy": "Radiotherapy: 1 treated, 0 not",
    "chemotherapy": "Chemotherapy with temozolomide: 1 treated, 0 not",
    "batch": "Sequencing batch of CGGA: 693 or 325",
}
_GENES = ("genename", "genesymbol", "symbol", "gene", "geneid", "")


@dataclass(frozen=True)
class _Batch:
    """Files of one batch."""

    name: str
    clinical: Path
    expression: Path | None
    counts: Path | None


def read_release(source: Path, *, participants: Path | None = None) -> Release:
    """Read one batch of CGGA, or both where a folder holds both.

    Parameters
    ----------
    source
        The clinical table (matrices of its batch are taken where they lie beside it), or a folder; files plain, gzipped
        or zipped, named as CGGA names them.
    participants
        A further clinical table.

    Raises
    ------
    NotFound, UnreadableFile, InvalidTable, DuplicateId, IdMismatch
        Where a file, a column, a code or the patients' identifiers are not what they should be.
    """
    batches = _batches(source)
    clinical = pd.concat([_read_clinical(batch, several=len(batches) > 1) for batch in batches])
    counted: dict[str, int] = {}
    dropped: dict[str, str] = {}
    matrices: dict[str, pd.DataFrame] = {}
    for matrix in ("expression", "counts"):
        paths = [batch.expression if matrix == "expression" else batch.counts for batch in batches]
        if not all(paths):
            if any(paths):
                counted[f"batches whose {matrix} is not taken, since the other has none"] = 1
            continue
        found = [
            expression_values(
                _read_genes(path, batch, several=len(batches) > 1),
                unit="counts" if matrix == "counts" else "linear",
                step=STEP,
            )
            for path, batch in zip(paths, batches, strict=True)
            if path is not None
        ]
        joined = pd.concat([part.values for part in found], join="inner")
        require_overlap(found[0].values.columns, joined.columns, step=STEP)
        if lost := max(part.values.shape[1] for part in found) - joined.shape[1]:
            counted[f"genes of {matrix} that one batch lacks"] = lost
        clinical, matrices[matrix], unjoined = join_expression(clinical, joined, step=STEP)
        dropped |= unjoined
        for part in found:
            for what, count in part.counted.items():
                name = f"{what} ({matrix})"
                counted[name] = counted.get(name, 0) + count
    clinical, lost_follow_up = whole_follow_up(clinical)
    table = participants_of(clinical)
    kept = pd.Index(table["participant_id"].str.removeprefix("sub-"))
    files = [path for batch in batches for path in (batch.clinical, batch.expression, batch.counts) if path is not None]
    release = Release(
        name="cgga",
        participants=table,
        meanings={name: meaning for name, meaning in _MEANINGS.items() if name in table},
        matrices={name: matrix.loc[kept] for name, matrix in matrices.items()},
        scale={name: {"expression": "log2(FPKM + 1)", "counts": "read counts"}[name] for name in matrices},
        dropped=dropped,
        counted={**lost_follow_up, **counted},
        sources=hashes(files),
        licence=_LICENCE,
    )
    return check_release(join_clinical(release, participants))


def _batches(source: Path) -> list[_Batch]:
    if not source.exists():
        raise NotFound("there is no such file or folder", step=STEP, field=source.name)
    folder = source if source.is_dir() else source.parent
    files: dict[str, dict[str, Path]] = {}
    for path in tables_in(folder):
        batch, kind = _BATCH.search(path.name), _kind(path.name)
        if batch is None or kind is None:
            continue
        mine = files.setdefault(batch[1], {})
        if kind in mine and source not in (path, mine[kind]):
            raise InvalidTable(
                "a batch has two files of one kind",
                step=STEP,
                field=f"{batch[1]} {kind}",
                expected="one file",
                got=f"{mine[kind].name}, {path.name}",
                remedy="keep one release of it in the folder",
            )
        if mine.get(kind) != source:
            mine[kind] = path
    chosen = _BATCH.search(source.name) if source.is_file() else None
    if source.is_file() and chosen is None:
        return [_Batch("", source, None, None)]
    found = [
        _Batch(name, mine["clinical"], mine.get("expression"), mine.get("counts"))
        for name, mine in sorted(files.items(), reverse=True)
        if "clinical" in mine and (chosen is None or name == chosen[1])
    ]
    if not found:
        raise NotFound(
            "there is no clinical table of CGGA",
            step=STEP,
            field=source.name,
            expected="CGGA.mRNAseq_693_clinical.*.txt or CGGA.mRNAseq_325_clinical.*.txt",
            got=", ".join(path.name for path in tables_in(folder)[:5]) or "no table",
        )
    return found


def _kind(name: str) -> str | None:
    for words, kind in (("clinical", "clinical"), ("rsem-genes", "expression"), ("read_counts-genes", "counts")):
        if words in name.lower():
            return kind
    return None


def _identifiers(written: pd.Index, batch: _Batch, *, several: bool) -> list[str]:
    return [f"{batch.name}-{name}" if several else str(name) for name in written]


def _read_clinical(batch: _Batch, *, several: bool) -> pd.DataFrame:
    file = batch.clinical.name
    frame = with_plain_names(read_text_table(batch.clinical, step=STEP), file=file, step=STEP)
    require_columns(frame, _NEEDED, file=file, step=STEP)
    table = index_by(frame, "cggaid", file=file, step=STEP)
    clinical = pd.DataFrame(
        {ours: _converted(ours, table[written], written) for written, ours in _COLUMNS.items() if written in table},
        index=table.index,
    )
    if batch.name:
        clinical["batch"] = batch.name
    clinical.index = pd.Index(_identifiers(clinical.index, batch, several=several))
    return clinical


def _converted(ours: str, column: pd.Series, written: str) -> pd.Series:
    converters: dict[str, Callable[[], pd.Series]] = {
        "age_years": lambda: codings.numbers(column, step=STEP, field="Age"),
        "os_months": lambda: codings.months_of_days(codings.numbers(column, step=STEP, field="OS")),
        "event": lambda: codings.events(column, step=STEP, field="Censor (alive=0; dead=1)"),
        "sex": lambda: codings.sexes(column, step=STEP, field="Gender"),
        "grade": lambda: codings.grades(column, step=STEP, field="Grade"),
        "idh": lambda: codings.mutations(column, step=STEP, field="IDH_mutation_status"),
        "codeletion_1p19q": lambda: codings.codeletions(column, step=STEP, field="1p19q_codeletion_status"),
        "mgmt": lambda: codings.methylations(column, step=STEP, field="MGMTp_methylation_status"),
        **{
            name: lambda: codings.events(column, step=STEP, field=written, also={"treated": "1", "un-treated": "0"})
            for name in ("radiotherapy", "chemotherapy")
        },
    }
    return converters.get(ours, lambda: codings.text(column))()


def _read_genes(path: Path, batch: _Batch, *, several: bool) -> pd.DataFrame:
    """Samples x genes."""
    frame = read_value_table(path, step=STEP)
    if plain_name(frame.columns[0]) not in _GENES:
        raise InvalidTable(
            "the first column does not name the genes",
            step=STEP,
            field=path.name,
            expected="Gene_Name",
            got=str(frame.columns[0]),
        )
    genes = frame.iloc[:, 0]
    values = frame.iloc[:, 1:].T
    values.columns = pd.Index(genes)
    values.index = pd.Index(_identifiers(values.index, batch, several=several))
    check_samples(values, file=path.name, step=STEP)
    return values

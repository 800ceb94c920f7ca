"""Gene sets from files that the user names (GMT: name, description, genes, separated by tabs)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.genomics.expression import require_overlap
from services.shared.errors import DuplicateId, InvalidTable, InvalidValue, NotFound, TooFewCases, UnreadableFile

GeneSets = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Restricted:
    """Gene sets cut to the genes that a table or universe has.

    Parameters
    ----------
    sets
        Genes by set name, without repeats.
    dropped
        Number of genes left, by name of a set that is outside the limits of size.
    """

    sets: dict[str, tuple[str, ...]]
    dropped: dict[str, int]


def read_gmt(path: Path) -> dict[str, tuple[str, ...]]:
    """Return genes by set name, in the file's order; a gene repeated within a set counts once.

    Raises
    ------
    NotFound, UnreadableFile
        Where there is no such file, or it is no text.
    InvalidTable, DuplicateId
        Where a line has fewer than three columns (naming the line), or a set stands twice.
    """
    step = "read_gmt"
    if not path.is_file():
        raise NotFound("There is no such gene set file.", step=step, field=str(path))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as exc:
        raise UnreadableFile("The gene set file is no text.", step=step, field=str(path), got=str(exc)) from exc
    sets: dict[str, tuple[str, ...]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = tuple(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            columns = len(rest) + 1
            raise InvalidTable(
                f"Line {number} is no gene set.",
                step=step,
                field=str(path),
                expected="name, description and at least one gene, separated by tabs",
                got=f"{columns} column{'s' if columns > 1 else ''}",
                remedy="give a GMT file; a plain list of genes needs a name and a description in front",
            )
        if name in sets:
            raise DuplicateId("A gene set stands twice.", step=step, field=str(path), got=name)
        sets[name] = genes
    if not sets:
        raise TooFewCases("The gene set file is empty.", step=step, field=str(path))
    return sets


def restrict(
    sets: GeneSets, genes: Iterable[str], *, least: int = 1, most: int | None = None, step: str = "restrict"
) -> Restricted:
    """Cut sets to known genes and keep those of the sizes asked for.

    Raises
    ------
    IdMismatch
        Where no gene of any set is known: symbols met Entrez ids, say.
    TooFewCases
        Where no set keeps a size within the limits.
    """
    if least < 1 or (most is not None and most < least):
        raise InvalidValue("Limits of set size are not in order.", step=step, field="least", got=f"{least} to {most}")
    if not sets:
        raise TooFewCases("No gene set was given.", step=step)
    names = [str(gene) for gene in genes]
    require_overlap(names, [gene for members in sets.values() for gene in members], step=step)
    known = set(names)
    kept: dict[str, tuple[str, ...]] = {}
    dropped: dict[str, int] = {}
    for name, members in sets.items():
        found = tuple(dict.fromkeys(gene for gene in members if gene in known))
        if len(found) < least or (most is not None and len(found) > most):
            dropped[name] = len(found)
        else:
            kept[name] = found
    if not kept:
        raise TooFewCases(
            "No gene set has a size within the limits.",
            step=step,
            expected=f"{least} to {'any number' if most is None else most} known genes",
            got=f"sizes {min(dropped.values())} to {max(dropped.values())}",
        )
    return Restricted(sets=kept, dropped=dropped)

"""Gene set files and over-representation."""

from math import comb
from pathlib import Path

import pytest

from pipelines.genomics.enrichment import over_representation
from pipelines.genomics.gene_sets import read_gmt, restrict
from services.shared.errors import DuplicateId, IdMismatch, InvalidTable, NotFound, TooFewCases, UnreadableFile


def gmt(folder: Path, text: str | bytes) -> Path:
    path = folder / "sets.gmt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_sets_are_read_in_order_with_each_gene_once(tmp_path: Path) -> None:
    path = gmt(tmp_path, "\ufeffB\thttp://x\tG1\tG2\tG1\t\nA\t\tG3\r\n\n")
    assert read_gmt(path) == {"B": ("G1", "G2"), "A": ("G3",)}


@pytest.mark.parametrize(("line", "columns"), [("CD44", "1 column"), ("SET\tCD44", "2 columns")])
def test_one_column_is_no_gene_set(tmp_path: Path, line: str, columns: str) -> None:
    with pytest.raises(InvalidTable, match=f"Line 2.*{columns}"):
        read_gmt(gmt(tmp_path, f"A\tabout\tG1\n{line}\n"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_gmt(tmp_path / "absent.gmt")
    with pytest.raises(TooFewCases):
        read_gmt(gmt(tmp_path, "\n"))
    with pytest.raises(DuplicateId, match="A"):
        read_gmt(gmt(tmp_path, "A\t\tG1\nA\t\tG2\n"))
    with pytest.raises(UnreadableFile):
        read_gmt(gmt(tmp_path, b"\x1f\x8b\xff\xfe"))


def test_limits_of_size_count_what_they_drop() -> None:
    cut = restrict({"A": ("G1", "G2", "X"), "B": ("G1",)}, ["G1", "G2", "G3"], least=2)
    assert (cut.sets, cut.dropped) == ({"A": ("G1", "G2")}, {"B": 1})
    with pytest.raises(TooFewCases, match="limits"):
        restrict({"B": ("G1",)}, ["G1"], least=2)


def test_entrez_universe_against_symbol_sets_says_so() -> None:
    with pytest.raises(IdMismatch, match=r"entrez.*symbol"):
        restrict({"A": ("CD44", "NOX1")}, ["960", "27035"])


def test_tail_is_counted_by_hand() -> None:
    universe = [f"G{n}" for n in range(20)]
    result = over_representation(universe[:5], {"A": tuple(universe[2:8]), "none": ("G19",)}, universe=universe)
    by_hand = sum(comb(6, k) * comb(14, 5 - k) for k in (3, 4, 5)) / comb(20, 5)
    assert result.p[0] == pytest.approx(by_hand, rel=1e-12)
    assert (result.overlap[0], result.size[0], result.members[0]) == (3, 6, ("G2", "G3", "G4"))
    assert result.fold[0] == pytest.approx((3 / 5) / (6 / 20))
    assert result.p[1] == 1.0
    assert (result.universe, result.chosen) == (20, 5)
    assert list(result.to_frame().index) == ["A", "none"]


def test_a_larger_universe_makes_the_same_overlap_more_surprising() -> None:
    small, large = [f"G{n}" for n in range(20)], [f"G{n}" for n in range(200)]
    sets = {"A": tuple(small[2:8])}
    assert (
        over_representation(small[:5], sets, universe=large).p < over_representation(small[:5], sets, universe=small).p
    )


def test_chosen_genes_must_lie_in_the_universe_once() -> None:
    with pytest.raises(IdMismatch, match="universe"):
        over_representation(["G1", "X"], {"A": ("G1",)}, universe=["G1", "G2"])
    with pytest.raises(IdMismatch, match="entrez"):
        over_representation(["960"], {"A": ("CD44",)}, universe=["CD44", "NOX1"])
    with pytest.raises(DuplicateId):
        over_representation(["G1", "G1"], {"A": ("G1",)}, universe=["G1", "G2"])

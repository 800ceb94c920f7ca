from __future__ import annotations

import pytest

from pipelines.datasets.ferrdb import read_ferrdb
from services.shared.errors import InvalidTable, NotFound, TooFewCases


def test_lists_of_all_layouts_unite(tmp_path):
    driver = tmp_path / "v1_driver.csv"
    driver.write_text(
        "\ufeffSymbol,Name,HGNC_ID\nRPL8,x,HGNC:10368\nACSL4 ,y,HGNC:3571\nmiR-9,z,_NA_\nRPL8,x,HGNC:10368\n"
    )
    union = tmp_path / "union.csv"
    union.write_text("symbol,roles,hgnc\nACSL4,driver;marker,HGNC:3571\nGPX4,suppressor,HGNC:4556\n")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text('"Gene","FerrDb_Category","Source"\n"CD44","Suppressor","v2"\n"TP53","Unclassified","v2"\n')
    found = read_ferrdb(driver, union, pairs)
    assert found.roles == {
        "ACSL4": ("driver", "marker"),
        "CD44": ("suppressor",),
        "GPX4": ("suppressor",),
        "RPL8": ("driver",),
    }
    assert found.left_out == {"TP53": "no role as driver, suppressor or marker", "miR-9": "no HGNC id"}
    assert found.records == 8
    assert found.with_role("suppressor") == ("CD44", "GPX4")
    assert found.with_role() == ("ACSL4", "CD44", "GPX4", "RPL8")


def test_lists_that_are_none(tmp_path):
    with pytest.raises(NotFound):
        read_ferrdb(tmp_path / "driver.csv")
    path = tmp_path / "genes.csv"
    path.write_text("Symbol,Name\nRPL8,x\n")
    with pytest.raises(InvalidTable, match="role"):
        read_ferrdb(path)
    path = tmp_path / "driver.csv"
    path.write_text("Name,Other\nRPL8,x\n")
    with pytest.raises(InvalidTable, match="symbol"):
        read_ferrdb(path)
    path.write_text("Symbol,HGNC_ID\nx,_NA_\n")
    with pytest.raises(TooFewCases):
        read_ferrdb(path)


def test_published_lists(real_data):
    folder = real_data / "ferrdb_ferroptosis_genes"
    if not folder.is_dir():
        pytest.skip(f"no FerrDb lists at {folder}")
    first = read_ferrdb(*(folder / f"ferrdb_v1_{role}.csv" for role in ("driver", "suppressor", "marker")))
    assert first.records == 382
    assert len(first.roles) + len(first.left_out) == 259
    assert {"GPX4", "SLC7A11", "PTGS2"} <= set(first.roles)
    assert "suppressor" in first.roles["GPX4"]
    second = read_ferrdb(folder / "ferrdb_v2_gene_category.csv")
    assert second.records == 1290
    assert len(second.roles) > 1000

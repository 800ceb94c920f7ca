from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.versioning.comparison import compare_files, largest_difference
from pipelines.versioning.networks import OUTPUT_TOLERANCE, compare_networks
from pipelines.versioning.tables import compare_rows, compare_schemas, read_schema
from services.segmentation.slice_network import SliceNetworkSpec, build_slice_network
from services.shared.errors import InvalidValue, UnreadableFile
from services.shared.storage import Storage
from services.shared.trained_network import save_network


def arrays(**values: list[float]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **{name: np.array(array) for name, array in values.items()})
    return content.getvalue()


def test_same_files_differ_in_nothing() -> None:
    files = {"package.json": b'{"a": 1}', "arrays.npz": arrays(w=[1, 2])}
    assert compare_files(files, dict(files)) == ()


def test_differences_are_told_by_field_and_array() -> None:
    before = {"package.json": json.dumps({"packages": {"numpy": "1"}, "b": 2}).encode(), "arrays.npz": arrays(w=[3, 4])}
    after = {
        "package.json": json.dumps({"packages": {"numpy": "2"}, "b": 2}).encode(),
        "arrays.npz": arrays(w=[3, 4.5]),
    }
    assert compare_files(before, after) == (
        "arrays.npz: w: relative difference up to 0.14",
        'package.json: packages.numpy "1" → "2"',
    )
    assert compare_files(before, {}) == ("arrays.npz: was not made again", "package.json: was not made again")


def test_difference_is_measured_against_the_size_of_the_array() -> None:
    assert largest_difference(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == pytest.approx(0.5 / np.sqrt(12.5))
    assert largest_difference(np.array([1.0, 0.0]), np.array([1.0, 1e-9])) < 2e-9
    assert largest_difference(np.zeros(2), np.array([0.0, 0.1])) == pytest.approx(0.1)


def test_networks_are_compared_by_weights_and_by_what_they_say(tmp_path) -> None:
    spec = SliceNetworkSpec(width=8, side=32)
    torch.manual_seed(0)
    state = build_slice_network(spec).state_dict()
    storages = {name: Storage(tmp_path / name) for name in ("kept", "close", "far", "other")}
    save_network(storages["kept"], "models/m", spec, state, training={})
    generator = torch.Generator().manual_seed(1)
    for name, size in (("close", 1e-7), ("far", 0.05)):
        noisy = {key: value + size * torch.randn(value.shape, generator=generator) for key, value in state.items()}
        save_network(storages[name], "models/m", spec, noisy, training={})
    same = compare_networks(storages["kept"], storages["kept"], "models/m")
    close = compare_networks(storages["kept"], storages["close"], "models/m")
    far = compare_networks(storages["kept"], storages["far"], "models/m")
    assert same.same_bytes
    assert same.is_tolerable
    assert close.is_tolerable
    assert 0 < close.outputs < OUTPUT_TOLERANCE
    assert not close.same_bytes
    assert not far.is_tolerable
    assert far.outputs > OUTPUT_TOLERANCE
    wider = SliceNetworkSpec(width=16, side=32)
    save_network(storages["other"], "models/m", wider, build_slice_network(wider).state_dict(), training={})
    with pytest.raises(InvalidValue, match="another architecture"):
        compare_networks(storages["kept"], storages["other"], "models/m")


def test_kinds_of_columns() -> None:
    text = b"participant_id\tage\tsex\tcodel\tnone\nsub-1\t4\tF\tTrue\tn/a\nsub-2\tn/a\tM\tFalse\t\n"
    kinds = {"participant_id": "text", "age": "number", "sex": "text", "codel": "truth", "none": "empty"}
    assert read_schema(text, name="participants.tsv") == kinds
    content = io.BytesIO()
    pd.DataFrame({"x": [1, 2], "t": pd.to_datetime(["2020-01-01"] * 2), "s": ["a", "b"]}).to_parquet(content)
    assert read_schema(content.getvalue(), name="x.parquet") == {"x": "number", "t": "time", "s": "text"}
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_schema(b"PAR1", name="x.parquet")


def test_column_without_values_fits_every_kind() -> None:
    assert compare_schemas({"a": "empty", "b": "text"}, {"a": "number", "b": "text"}, table="t") is None
    change = compare_schemas({"a": "text", "b": "text"}, {"a": "number", "c": "text"}, table="t")
    assert str(change) == "t: added c; removed b; of another kind a (text → number)"


def test_rows_are_compared_by_case_whatever_their_order() -> None:
    before = b"participant_id\tage\nsub-1\t4\nsub-2\tn/a\nsub-3\t6\n"
    after = b"participant_id\tage\tnew\nsub-4\t1\tx\nsub-2\tn/a\tx\nsub-1\t5\tx\n"
    found = compare_rows(before, after, name="participants.tsv")
    assert (found.added, found.removed, found.changed) == (("4",), ("3",), ("1",))
    assert compare_rows(None, before, name="participants.tsv").added == ("1", "2", "3")

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from services.shared.cohort import (
    CaseKeys,
    Region,
    Sequence,
    normalise_labels,
    read_cohort,
    region_mask,
    require_sequences,
    write_participants,
)
from services.shared.contracts import CaseRef, case_label
from services.shared.errors import DuplicateId, IdMismatch, InvalidMask, InvalidTable, MissingSequence, NotFound
from services.shared.storage import Storage


def make(storage: Storage, ids: list[str], folders: list[str] | None = None) -> None:
    frame = pd.DataFrame({"participant_id": ids, "grade": 4, "subset": ["study", "segmentation"] * (len(ids) // 2)})
    write_participants(storage, "c", frame)
    for folder in folders if folders is not None else ids:
        storage.write_text(f"raw/c/{folder}/anat/x.txt", "")


def test_cohort_is_sorted_and_split_by_subset(storage: Storage) -> None:
    make(storage, ["sub-2", "sub-1"])
    cohort = read_cohort(storage, "c")
    assert [str(case) for case in cohort.cases] == ["c/sub-1", "c/sub-2"]
    assert [case.id for case in cohort.subset("study").cases] == ["2"]
    assert storage.exists("raw/c/participants.json")


def test_unknown_cohort_names_the_known_ones(storage: Storage) -> None:
    make(storage, ["sub-1", "sub-2"])
    with pytest.raises(NotFound, match="expected: c"):
        read_cohort(storage, "d")


@pytest.mark.parametrize("ids", [["sub-1", "sub-1"], ["sub-01", "sub-01"]])
def test_repeated_participant_is_refused(storage: Storage, ids: list[str]) -> None:
    with pytest.raises(DuplicateId, match=ids[0]):
        make(storage, ids)


@pytest.mark.parametrize("name", ["1", "sub-a_b", "sub-", "sub-../x"])
def test_malformed_participant_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidTable, match="BIDS subject"):
        make(storage, ["sub-1", name])


def test_table_and_folders_must_name_the_same_cases(storage: Storage) -> None:
    make(storage, ["sub-1", "sub-2"], folders=["sub-2", "sub-3"])
    with pytest.raises(IdMismatch) as caught:
        read_cohort(storage, "c")
    assert "1 folders without a row: sub-3" in str(caught.value)
    assert "1 rows without a folder: sub-1" in str(caught.value)


def test_labels_of_newer_releases_are_accepted() -> None:
    labels = normalise_labels(np.array([0, 1, 2, 3], np.int16))
    assert labels.tolist() == [0, 1, 2, 4]
    assert region_mask(labels, Region.TC).tolist() == [False, True, False, True]
    assert region_mask(labels, Region.WT).tolist() == [False, True, True, True]


@pytest.mark.parametrize("labels", [[0, 5], [0, -1], [3, 4]])
def test_undefined_label_is_refused(labels: list[int]) -> None:
    with pytest.raises(InvalidMask, match="label"):
        normalise_labels(np.array(labels))


def test_missing_sequences_are_all_named(storage: Storage) -> None:
    keys = CaseKeys(CaseRef(cohort="c", id="1"))
    storage.write_text(keys.raw_image(Sequence.T1), "")
    storage.write_text(keys.raw_image(Sequence.FLAIR), "")
    with pytest.raises(MissingSequence, match="without T1c, T2w") as caught:
        require_sequences(storage, keys, step="prepare", prepared=False)
    assert caught.value.case == "c/sub-1"


@pytest.mark.parametrize("label", ["", "a-b", "../a", "a b", "x" * 65])
def test_case_label_is_checked(label: str) -> None:
    with pytest.raises(ValidationError):
        CaseRef(cohort="c", id=label)


def test_release_identifiers_become_labels() -> None:
    assert case_label("TCGA-02-0054") == "TCGA020054"
    assert case_label("BraTS2021_00495") == "BraTS202100495"

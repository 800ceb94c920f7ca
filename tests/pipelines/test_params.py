"""params.yaml names every number of the segmentation networks, so that ``dvc exp run -S`` can override each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipelines.parameters import read_section
from pipelines.training.segmentation_parameters import TrainParameters
from pipelines.training.slices import SliceTrainParameters
from services.segmentation.contracts import AbnormalityParameters, SegmentParameters

PARAMS = Path(__file__).parents[2] / "params.yaml"
SECTIONS: dict[str, type[BaseModel]] = {
    "train": TrainParameters,
    "train_abnormality": SliceTrainParameters,
    "segment": SegmentParameters,
    "segment_abnormality": AbnormalityParameters,
}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_names_every_parameter(name: str) -> None:
    assert read_section(PARAMS, name, SECTIONS[name]).model_fields_set == set(SECTIONS[name].model_fields)


def test_the_networks_are_trained_as_their_defaults_say() -> None:
    assert read_section(PARAMS, "train", TrainParameters) == TrainParameters()
    assert read_section(PARAMS, "train_abnormality", SliceTrainParameters) == SliceTrainParameters()


def test_an_experiment_overrides_any_of_them(tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    path = Path(shutil.copy(PARAMS, tmp_path))
    apply_overrides(path, ["train.epochs=3", "train.stop_after=2", "train_abnormality.folds=0", "segment.threads=2"])
    train = read_section(path, "train", TrainParameters)
    assert (train.epochs, train.stop_after) == (3, 2)
    assert read_section(path, "train_abnormality", SliceTrainParameters).folds == 0
    assert read_section(path, "segment", SegmentParameters).threads == 2

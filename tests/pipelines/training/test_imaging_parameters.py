"""The section train_imaging changes what it names and leaves the rest to the papers."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from pipelines.parameters import DEFAULT_FILE, read_section
from pipelines.training.imaging_parameters import PAPER_FOLDS, PAPER_PARAMETERS, ImagingTraining
from services.model_serving.networks.specification import PAPER_SPECS


@pytest.mark.parametrize("architecture", sorted(PAPER_SPECS))
def test_an_empty_section_is_the_paper(architecture):
    empty = ImagingTraining()
    assert empty.spec(architecture) == PAPER_SPECS[architecture]
    assert empty.parameters(architecture) == PAPER_PARAMETERS[architecture]
    assert empty.fold_count(architecture) == PAPER_FOLDS[architecture]
    assert empty.spec(architecture, classes=("a", "b")).classes == ("a", "b")


@pytest.mark.parametrize("architecture", sorted(PAPER_SPECS))
def test_the_projects_own_section_fits_every_network(architecture):
    own = read_section(DEFAULT_FILE, "train_imaging", ImagingTraining)
    assert own.spec(architecture).width == 16
    assert own.parameters(architecture).epochs == own.epochs
    for name, value in own.model_dump(exclude_unset=True).items():
        if name in type(own.parameters(architecture)).model_fields:
            assert getattr(own.parameters(architecture), name) == value


def test_larger_voxels_keep_the_millimetres():
    coarse = ImagingTraining(voxel_mm=3.0)
    assert coarse.spec("grade").size == (32, 43, 32)
    assert coarse.spec("grade_survival").size == (80, 80)
    assert coarse.spec("diffusion_survival") == PAPER_SPECS["diffusion_survival"]
    assert ImagingTraining(voxel_mm=3.0, size=(40, 40, 40)).spec("risk_group").size == (40, 40, 40)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValidationError, match="epochs"):
        ImagingTraining(epochs=0).parameters("grade")
    with pytest.raises(ValidationError, match="expected 3"):
        ImagingTraining(size=(32, 32)).spec("grade")
    with pytest.raises(ValidationError, match="extra"):
        ImagingTraining(epoch=3)

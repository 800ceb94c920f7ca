"""`gliaflow export dicom-seg` on series that pydicom writes, from one real scanner's header where there is one."""

from __future__ import annotations

import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

from highdicom.seg import segread
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from typer.testing import CliRunner, Result

from pipelines.cli import app
from services.segmentation.contracts import Finding
from services.segmentation.dicom_seg import dicom_seg_key, series_grid
from services.segmentation.regions import region_volumes_ml
from services.segmentation.segment import finding_key
from services.shared.cohort import CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.errors import InvalidVolume, NotFound, SpaceMismatch
from services.shared.storage import Storage
from services.shared.volume import read_volume, write_volume

SLICES = 24


def plain_header() -> Dataset:
    """Return what a slice needs to say, and no more."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = MRImageStorage, ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.Modality, data.PatientID, data.PatientName = MRImageStorage, "MR", "X", "X"
    data.PatientBirthDate, data.PatientSex, data.StudyID, data.StudyDate = "", "O", "1", "20200101"
    data.StudyTime, data.AccessionNumber, data.ReferringPhysicianName = "120000", "", ""
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.9"
    data.Rows, data.Columns, data.PixelSpacing, data.SeriesNumber = 40, 44, [4.0, 4.0], 3
    data.ImageOrientationPatient, data.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0.0, 0.0, 0.0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.PixelData = bytes(data.Rows * data.Columns * 2)
    return data


def write_series(folder: Path, header: Dataset, *, step_mm: float) -> None:
    """Write slices of one header, one step apart along their normal."""
    folder.mkdir()
    x, y = np.array(header.ImageOrientationPatient, dtype=float).reshape(2, 3)
    first = np.array(header.ImagePositionPatient, dtype=float)
    for number in range(SLICES):
        data = deepcopy(header)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{number + 1}"
        data.InstanceNumber = number + 1
        data.ImagePositionPatient = [f"{v:.6f}" for v in first + number * step_mm * np.cross(x, y)]
        data.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)


def write_segmented(storage: Storage, folder: Path) -> CaseKeys:
    """Write a case whose tumour lies in the middle of a series; atlas and patient share their space."""
    keys = CaseKeys(CaseRef(cohort="demo", id="a"))
    _, grid = series_grid([dcmread(path, stop_before_pixels=True) for path in sorted(folder.iterdir())])
    z, y, x = np.ogrid[tuple(slice(n) for n in grid.GetSize()[::-1])]
    size = np.array(grid.GetSize()[::-1])
    away = sum(((p - n / 2) / n) ** 2 for p, n in zip((z, y, x), size, strict=True)) ** 0.5
    labels = np.select([away < 0.1, away < 0.2, away < 0.3], [1, 4, 2], 0).astype(np.uint8)
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(grid)
    write_volume(storage, keys.segmentation, image)
    volumes = region_volumes_ml(labels, image.GetSpacing())
    finding = Finding(source="network", tumour_found=True, volumes_ml=volumes, model_sha256="b" * 64)
    storage.write_text(finding_key(keys), finding.model_dump_json())
    with storage.publish(keys.transform(Sequence.T1C, keys.space)) as path:
        sitk.WriteTransform(sitk.AffineTransform(3), str(path))
    return keys


def export(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["export", "dicom-seg", *arguments])


def check_object(storage: Storage, keys: CaseKeys, folder: Path) -> None:
    """Check segments and references, and the whole object by dciodvfy where it is installed."""
    labels = sitk.GetArrayFromImage(read_volume(storage, keys.segmentation, pixel_type=sitk.sitkUInt8))
    with storage.local(dicom_seg_key(keys, Sequence.T1C)) as path:
        read = segread(path)
        for number, label in ((1, 1), (2, 2), (3, 4)):
            frames = [
                plane
                for frame, plane in zip(read.PerFrameFunctionalGroupsSequence, read.pixel_array, strict=True)
                if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
            ]
            assert int(np.sum(frames)) == int((labels == label).sum())
        said = {item.ReferencedSOPInstanceUID for item in read.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
        assert said == {dcmread(p, stop_before_pixels=True).SOPInstanceUID for p in folder.iterdir()}
        if shutil.which("dciodvfy"):
            checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
            faults = [line for line in checked.stderr.splitlines() if line.startswith("Error")]
            assert faults == []


def test_a_segmented_case_becomes_an_object_on_its_series(storage: Storage, tmp_path: Path) -> None:
    folder = tmp_path / "series"
    write_series(folder, plain_header(), step_mm=5.0)
    keys = write_segmented(storage, folder)
    result = export("demo/sub-a", "--series", str(folder))
    assert result.exit_code == 0, result.output
    assert dicom_seg_key(keys, Sequence.T1C) in result.stdout
    check_object(storage, keys, folder)
    again = export("a", "--cohort", "demo", "--series", str(folder))
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        (["demo/sub-a", "--series", "nowhere"], NotFound, "no such folder"),
        (["demo/sub-a", "--series", "empty"], NotFound, "no DICOM image"),
        (["demo/sub-a", "--series", "series", "--sequence", "PD"], NotFound, "no such sequence"),
        (["demo/sub-a", "--series", "series", "--sequence", "FLAIR"], NotFound, "lacks a file"),
        (["demo/sub-b", "--series", "series"], NotFound, "gliaflow segment"),
    ],
)
def test_mistakes_name_the_case_and_what_to_do(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: type, words: str
) -> None:
    write_series(tmp_path / "series", plain_header(), step_mm=5.0)
    (tmp_path / "empty").mkdir()
    write_segmented(storage, tmp_path / "series")
    monkeypatch.chdir(tmp_path)
    result = export(*arguments)
    assert isinstance(result.exception, kind)
    assert words in str(result.exception) + (result.exception.remedy or "")


@pytest.mark.real
def test_an_object_on_slices_of_a_real_scanners_header(storage: Storage, tmp_path: Path, real_data: Path) -> None:
    header = dcmread(real_data / "dicom_mr" / "MR_small.dcm")
    folder = tmp_path / "series"
    write_series(folder, header, step_mm=float(header.SliceThickness))
    keys = write_segmented(storage, folder)
    result = export("demo/sub-a", "--series", str(folder))
    assert result.exit_code == 0, result.output
    check_object(storage, keys, folder)


@pytest.mark.real
@pytest.mark.parametrize("name", ["MR1", "MR2", "MR700"])
def test_real_slices_that_are_no_stack_are_refused(storage: Storage, real_data: Path, name: str) -> None:
    result = export("demo/sub-a", "--series", str(real_data / "dicom_mr" / "98892003" / name))
    assert isinstance(result.exception, InvalidVolume | SpaceMismatch)
    assert (result.exception.case, result.exception.step) == ("demo/sub-a", "dicom-seg")

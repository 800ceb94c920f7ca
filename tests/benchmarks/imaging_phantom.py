"""A phantom cohort laid on one grid by its own true poses: what networks can learn, whatever registration does.

Nothing is registered or bias-corrected, which saves most of a minute a patient; the diffusion maps are the chain's own.
"""

from __future__ import annotations

import SimpleITK as sitk

from pipelines.phantom.anatomy import Tissue, draw_subject
from pipelines.phantom.effects import Stream, random_stream
from pipelines.phantom.scanner import plan_acquisitions
from pipelines.simulate import SimulateParameters, participant_label, phantom_key, simulate_cohort
from services.preprocessing.atlas import load_atlas
from services.preprocessing.diffusion import prepare_diffusion
from services.preprocessing.intensity import z_score
from services.preprocessing.registration import compose
from services.preprocessing.steps import carry_labels
from services.shared.cohort import SEQUENCES, CaseKeys, Sequence
from services.shared.contracts import CaseRef
from services.shared.storage import Storage
from services.shared.volume import itk_threads, read_volume, write_volume

BRAIN_GRID_MM = 4.0


def lay_cohort(storage: Storage, name: str, *, cases: int, voxel_mm: float, seed: int) -> list[CaseRef]:
    """Simulate a cohort where it is not there, lay it on the atlas grid, and return its cases."""
    parameters = SimulateParameters(cases=cases, segmentation_cases=0, voxel_mm=voxel_mm, workers=1)
    if not storage.exists(phantom_key(name)) or not storage.exists(f"raw/{name}/participants.tsv"):
        simulate_cohort(storage, name, parameters=parameters, seed=seed)
    found = []
    for index in range(cases):
        case = CaseRef(cohort=name, id=participant_label(index))
        if not storage.exists(CaseKeys(case).manifest("diffusion")):
            with itk_threads(1):
                _lay(storage, case, index, voxel_mm=voxel_mm, seed=seed)
            print(f"laid {index + 1} of {cases}", flush=True)
        found.append(case)
    return found


def _lay(storage: Storage, case: CaseRef, index: int, *, voxel_mm: float, seed: int) -> None:
    keys, grid = CaseKeys(case), load_atlas("icbm152", voxel_mm).grid
    head = draw_subject(random_stream(seed, index, Stream.ANATOMY), spacing_mm=BRAIN_GRID_MM)
    share = head.image(sum(head.fractions[tissue] for tissue in (Tissue.CSF, Tissue.GREY, Tissue.WHITE)))
    brain = sitk.Cast(sitk.Resample(share, grid) > 0.5, sitk.sitkUInt8)
    inside = sitk.GetArrayFromImage(brain) > 0
    write_volume(storage, keys.brain_mask, brain)
    planned = plan_acquisitions(seed, index, voxel_mm=voxel_mm)
    for sequence in SEQUENCES:
        to_image = planned[sequence].to_head.GetInverse()
        raw = read_volume(storage, keys.raw_image(sequence))
        values = z_score(sitk.GetArrayFromImage(sitk.Resample(raw, grid, to_image, sitk.sitkLinear, 0.0)), inside)
        image = sitk.GetImageFromArray(values.array)
        image.CopyInformation(grid)
        write_volume(storage, keys.preprocessed_image(sequence), image)
        with storage.publish(keys.transform(sequence, keys.space)) as path:
            sitk.WriteTransform(compose(to_image, sitk.Transform(3, sitk.sitkIdentity)), str(path))
    labels = read_volume(storage, keys.raw_segmentation, pixel_type=sitk.sitkUInt8)
    carried = carry_labels(labels, grid, planned[Sequence.T1C].to_head.GetInverse())
    write_volume(storage, keys.segmentation, carried)
    prepare_diffusion(storage, case)

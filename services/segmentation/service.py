"""The segmentation service."""

from __future__ import annotations

from services.segmentation.abnormality import segment_abnormality
from services.segmentation.contracts import AbnormalityRequest, AbnormalityResult, SegmentRequest, SegmentResult
from services.segmentation.segment import segment_case
from services.shared.serving import endpoint, service
from services.shared.storage import open_storage


@service("segmentation", threads=1)
class Segmentation:
    """From prepared volumes to tumour regions."""

    @endpoint
    def segment(self, request: SegmentRequest, /) -> SegmentResult:
        """Segment one prepared case."""
        return segment_case(open_storage(), request)

    @endpoint
    def segment_abnormality(self, request: AbnormalityRequest, /) -> AbnormalityResult:
        """Outline where FLAIR is abnormal in one imported case."""
        return segment_abnormality(open_storage(), request)

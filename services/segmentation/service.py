"""The segmentation service."""

from __future__ import annotations

from services.segmentation.contracts import SegmentRequest, SegmentResult
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

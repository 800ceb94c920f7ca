"""Open releases of glioma images, expression and clinical tables, fetched from their publishers."""

DESCRIPTIONS: dict[str, str] = {
    "tcga-gbm-mri": "MRI of TCGA glioblastoma (DICOM, 262 patients)",
    "tcga-lgg-mri": "MRI of TCGA lower-grade glioma (DICOM, 199 patients)",
    "upenn-gbm": "MRI of 630 glioblastoma patients, with diffusion (DICOM, 139 GB)",
    "ucsf-pdgm": "Clinical and molecular table of 495 diffuse gliomas (CSV)",
    "tcga-glioma-expression": "RNA-seq of TCGA-GBM and TCGA-LGG: STAR gene counts, FPKM and TPM as genes x samples",
    "tcga-glioma-clinical": "Clinical table of TCGA-GBM and TCGA-LGG",
    "imagenet-resnets": "ImageNet weights of ResNet-18, -34 and -50, to start or embed with (225 MB)",
}
"""What each release is; where it comes from stands in :mod:`pipelines.fetch.releases`."""

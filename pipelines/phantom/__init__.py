"""The phantom cohort: heads, gliomas, scanners, clinic and genes with planted, known effects."""

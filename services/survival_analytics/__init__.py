"""Survival analysis and model evaluation with the numbers of the R packages that clinical papers cite."""

"""Survival statistics and model evaluation."""

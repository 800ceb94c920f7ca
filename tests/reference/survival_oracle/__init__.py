"""Recomputes R's reference results from the inputs and settings that each case file holds."""

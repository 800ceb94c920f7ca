"""Versions of data and models: the only place that talks to DVC and git."""

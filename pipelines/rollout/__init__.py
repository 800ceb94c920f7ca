"""Bring a registered model version to those who serve it, watch it, and take it back."""

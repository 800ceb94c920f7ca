"""Fitted models as versioned packages, and predictions from them."""

"""Kubernetes as the pipelines see it: a connection, and why pods do not run."""

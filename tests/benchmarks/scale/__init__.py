"""Speed of survival analytics beside its peers: ``python -m tests.benchmarks.survival``."""

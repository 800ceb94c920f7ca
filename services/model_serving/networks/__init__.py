"""Networks of the four studies, as PyTorch modules without weights."""

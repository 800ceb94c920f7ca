"""From prepared volumes to tumour regions."""

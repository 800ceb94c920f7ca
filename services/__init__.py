"""The five services of gliaflow and the floor they stand on."""

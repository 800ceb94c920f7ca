"""May a newer version of a model take the champion's place? Comparison, gate, drift, lock and record of a retraining."""

"""May a newer version take the champion's place? Comparison, gate, drift, lock and record of a retraining."""

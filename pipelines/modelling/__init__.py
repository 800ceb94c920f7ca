"""How a model is made: tables in, selection and classifiers inside the folds, validation, outputs."""

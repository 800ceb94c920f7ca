"""How models are made: flows, training, modelling, studies and reports over the services."""

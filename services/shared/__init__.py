"""What a service stands on: cohorts, volumes, storage, contracts, settings, errors. No algorithm lives here."""

"""When and where work runs: each module is a short Prefect flow over the services."""

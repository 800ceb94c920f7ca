"""When and where work runs: each module is a short Prefect flow over the services."""

from services.shared.settings import make_prefect_home

make_prefect_home()

"""Where networks are trained: the services only use what is made here."""

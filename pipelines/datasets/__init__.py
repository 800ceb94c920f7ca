"""Importers: public releases as their publishers lay them out, into our cohorts and tables."""

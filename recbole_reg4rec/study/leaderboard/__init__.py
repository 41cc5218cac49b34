"""Grids of models, data sets and seeds, and the tables that are recomputed from their records."""

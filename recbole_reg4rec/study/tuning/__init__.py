"""Hyper-parameter studies with Optuna: many trials, many processes, one record."""

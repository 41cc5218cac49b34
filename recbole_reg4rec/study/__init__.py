"""Whole runs: from a name and settings to a record and a table."""

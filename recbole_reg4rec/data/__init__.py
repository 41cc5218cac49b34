"""Data: reading and fetching atomic files, exact time order, whole-sequence loading, item features and categories."""

"""The networks, and the recommenders that RecBole trains."""

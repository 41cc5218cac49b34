"""Decoding: which tokens are still possible, and the search for the best paths, whatever the model behind them."""

"""REG4Rec, a reasoning-enhanced generative recommender, as an extension of RecBole."""

__version__ = "0.1.0"

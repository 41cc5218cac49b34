"""Training and evaluation: RecBole's Trainer with exact metrics, safe checkpoints and true resuming."""

"""Speed and memory of training and evaluation, side by side on the machine at hand."""

"""Fitting the asset to the frames: views, seeds, losses, density control, the training loop, metrics."""

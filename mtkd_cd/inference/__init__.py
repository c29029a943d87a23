"""Prediction for users: a trained model, two images of one place, and what changed between them."""

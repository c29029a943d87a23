"""Matrices of models, seeds and strategies as jobs, and searches."""

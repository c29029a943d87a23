"""Seeded synthetic scenes of two dates with known changes, for the demo and the tests."""

from mtkd_cd.data.synthetic.dataset import make_dataset, make_scene, target_cars

__all__ = ['make_dataset', 'make_scene', 'target_cars']

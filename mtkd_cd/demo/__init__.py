"""A page in the browser that predicts a pair of images: ``mtkd-cd demo``."""

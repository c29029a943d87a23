"""A pair of rasters, opened on one grid and read by windows."""

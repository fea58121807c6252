"""Segmentation of salt in seismic tiles, from the files to the submission."""

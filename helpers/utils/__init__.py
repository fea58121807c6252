"""Helpers that are not about salt: files, hardware, and the cost of a network."""

"""Whole jobs composed from the library."""

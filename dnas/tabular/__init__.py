"""Tabular ground truth as arrays: what networks reached that others trained. For reports; no search reads it."""

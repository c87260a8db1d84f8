"""Measurements, not tests: `python -m benchmarks NAME --help`."""

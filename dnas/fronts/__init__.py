"""Pareto fronts over the networks of a space: by few true evaluations, on a supernet or on a table alone."""

from dnas.fronts.front import FILE, Evaluated, Front, load_front
from dnas.fronts.search import search

__all__ = ["FILE", "Evaluated", "Front", "load_front", "search"]

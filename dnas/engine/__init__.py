"""Compiles programs, searches (one or several lanes), trains, evaluates and diagnoses."""

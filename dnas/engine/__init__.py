"""What runs: compiles programs, searches, trains, judges and diagnoses, one search or several lanes at once."""

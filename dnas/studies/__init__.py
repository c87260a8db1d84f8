"""Studies: methods, seeds and selections under one budget, compared with uncertainty. `dnas.study` carries one out."""

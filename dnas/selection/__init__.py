"""Selections by name: from a trained supernet to a genotype. Each is a factory `(*, options) -> Selection`."""

OWN = "own"
"""Instead of a selection: the method's own rule."""
SELECTIONS = {
    "evolution": "dnas.selection.evolution:evolution",
    "halving": "dnas.selection.halving:halving",
    "magnitude": "dnas.selection.magnitude:magnitude",
    "magnitude-edge": "dnas.selection.magnitude:magnitude_edge",
    "pareto": "dnas.selection.pareto:pareto",
    "perturbation": "dnas.selection.perturbation:perturbation",
    "predictor": "dnas.selection.predictor:predictor",
    "random": "dnas.selection.sampling:random",
    "sampled": "dnas.selection.sampling:sampled",
    "shapley": "dnas.selection.shapley:shapley",
    "zero-cost": "dnas.selection.zero_cost:zero_cost",
    "zero-cost-gates": "dnas.selection.zero_cost:zero_cost_gates",
}
"""Place of each factory; `dnas.registry.resolve` imports it."""
USUAL = "perturbation"
"""The selection unless another is named, and unless the method ends with one of its own."""
COMPARED = ("magnitude", "perturbation", "sampled", "random")
"""Default selections of a comparison."""

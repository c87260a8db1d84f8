"""The parts that methods are made of: players, relaxations, terms, optimisers, hypergradients, steps."""

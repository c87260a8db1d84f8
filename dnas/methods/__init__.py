"""Published methods by name, each a file of its own that composes the parts of `dnas`."""

METHODS = {
    "darts": "dnas.methods.darts:darts",
}
"""Place of each factory `(space, epochs, steps, *, options) -> Method`; `dnas.registry.resolve` imports it."""

"""Forms of a trained network that others read, by name. Each is a function (network, folder) -> outputs.

It writes a `dnas.TrainedNetwork` into files of that folder called NAME, and returns the function inputs -> outputs of what
was written, as read back from there, which `dnas.export` compares. It raises ValueError where the network has no such form.
"""

FORMATS = {
    "stablehlo": "dnas.formats.stablehlo:stablehlo",
    "safetensors": "dnas.formats.safetensors:safetensors",
    "flax": "search_spaces.export:flax",
}
"""Place of each function; `dnas.registry.resolve` imports it."""
NAME = "network"
"""What the files are called."""

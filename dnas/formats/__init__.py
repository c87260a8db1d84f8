"""Export formats of a trained network by name. Each is a function (network, folder) -> outputs.

It writes a `dnas.TrainedNetwork` into files of that folder called NAME, and returns the function inputs -> outputs that it
reads back from them, for `dnas.export` to compare. It raises ValueError if the network cannot be exported so.
"""

FORMATS = {
    "stablehlo": "dnas.formats.stablehlo:stablehlo",
    "safetensors": "dnas.formats.safetensors:safetensors",
    "flax": "search_spaces.export:flax",
}
"""Place of each function; `dnas.registry.resolve` imports it."""
NAME = "network"
"""Name of the files, without suffix."""

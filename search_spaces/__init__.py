"""Search spaces by name. `from search_spaces.nasbench201 import nasbench201` gives one as a function."""

SPACES = {
    "conv-macro": "search_spaces.conv_macro:conv_macro",
    "darts": "search_spaces.darts:darts",
    "dense": "search_spaces.dense:dense",
    "graph": "search_spaces.graph:graph",
    "macro": "search_spaces.macro:macro",
    "mobilenet": "search_spaces.mobilenet:mobilenet",
    "nasbench201": "search_spaces.nasbench201:nasbench201",
    "nats-size": "search_spaces.nats_size:nats_size",
    "s1": "search_spaces.robust_darts:s1",
    "s2": "search_spaces.robust_darts:s2",
    "s3": "search_spaces.robust_darts:s3",
    "s4": "search_spaces.robust_darts:s4",
    "tas": "search_spaces.tas:tas",
    "width": "search_spaces.width:width",
}
"""Place of each factory `(image, classes, *, options) -> SearchSpace`, or `(graph, classes, *, options)`.

`dnas.registry.resolve` imports it."""

"""Published methods by name, each a file that composes parts of `dnas.algorithms`."""

METHODS = {
    "darts": "dnas.methods.darts:darts",
    "a2m": "dnas.methods.a2m:a2m",
    "beta-darts": "dnas.methods.beta_darts:beta_darts",
    "darts-2nd": "dnas.methods.darts_2nd:darts_2nd",
    "darts-es": "dnas.methods.darts_es:darts_es",
    "darts-minus": "dnas.methods.darts_minus:darts_minus",
    "drnas": "dnas.methods.drnas:drnas",
    "fair-darts": "dnas.methods.fair_darts:fair_darts",
    "gdas": "dnas.methods.gdas:gdas",
    "idarts": "dnas.methods.idarts:idarts",
    "lambda-darts": "dnas.methods.lambda_darts:lambda_darts",
    "oles": "dnas.methods.oles:oles",
    "p-darts": "dnas.methods.p_darts:p_darts",
    "pc-darts": "dnas.methods.pc_darts:pc_darts",
    "r-darts": "dnas.methods.r_darts:r_darts",
    "rarts": "dnas.methods.rarts:rarts",
    "reinmax": "dnas.methods.reinmax:reinmax",
    "rsps": "dnas.methods.rsps:rsps",
    "sd-darts": "dnas.methods.sd_darts:sd_darts",
    "sdarts-adv": "dnas.methods.sdarts_adv:sdarts_adv",
    "sdarts-rs": "dnas.methods.sdarts_rs:sdarts_rs",
    "sgas": "dnas.methods.sgas:sgas",
    "snas": "dnas.methods.snas:snas",
    "tas": "dnas.methods.tas:tas",
}
"""Place of each factory `(*, options) -> Method`; `dnas.registry.resolve` imports it."""

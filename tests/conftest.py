"""Tests compile many small programs and run each a few times, so XLA is told to compile quickly rather than well."""

import os
import sys
from importlib.metadata import version
from pathlib import Path

flags = ["--xla_backend_optimization_level=0"]
if version("jaxlib").startswith("0.10."):  # later ones do not know the flag, and end on one they do not know
    flags.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
sys.path.insert(0, str(Path(__file__).parent.parent))

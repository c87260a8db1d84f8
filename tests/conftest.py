"""Tests compile many small programs and run each a few times, so XLA is told to compile quickly rather than well."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
sys.path.insert(0, str(Path(__file__).parent.parent))

"""Tests of MLX, which runs on Linux CPUs too. Without it they are left out; with DOLA_MLX_REQUIRED set, that is an error."""

from __future__ import annotations

import os
from importlib.util import find_spec

if find_spec("mlx_lm") is None:
    if os.environ.get("DOLA_MLX_REQUIRED"):
        raise RuntimeError("DOLA_MLX_REQUIRED is set, and mlx-lm is not installed")
    collect_ignore_glob = ["test_mlx_*.py"]

"""Where the graphs are that systems are compared on.

`zoo`: stock exports with random weights, made by `python -m bench.zoo`.  `shared`: small trained
networks, and `wild`: graphs by strangers, both in the folder of real models and data that the tests
use too (ONNXPRUNE_SHARED); they are never committed.
"""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ONNXPRUNE_SHARED", REPOSITORY.parent / "shared" / "data"))
FOLDERS = {
    "zoo": REPOSITORY / "bench" / "cache" / "small",
    "shared": SHARED / "models",
    "wild": SHARED / "wild",
}

"""Look at 20,000 damaged models: bytes and protobuf fields of real ones changed at random.

    python -m bench.mutants --count 20000 [MODEL.onnx ...]

Each is loaded and inspected within 20 s of CPU and 3 GiB; anything but a report or one refusal is a
fault. Without models, the networks that come with onnxprune are taken. Results go to
bench/results/mutants.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from mutants import bombs, faults, mutate
from onnxprune.data import zoo
from onnxprune.model.files import write

RESULTS = Path(__file__).parent / "results" / "mutants.json"
BATCH = 200


def main() -> None:
    """Mutate, look, print and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    paths = args.models or [zoo.get(name).model for name in zoo.names()]
    sources = {path.stem: path.read_bytes() for path in paths}
    names = list(sources)
    found = faults([(name, proto.SerializeToString()) for name, proto in bombs().items()])
    for start in range(0, args.count, BATCH):
        mutants = []
        for number in range(start, min(start + BATCH, args.count)):
            rng = random.Random(args.seed * 1_000_003 + number)
            name = names[number % len(names)]
            mutant = mutate(sources[name], rng, list(sources.values()))
            mutants.append((f"{name} {number}", mutant))
        found += faults(mutants)
        print(f"{start + len(mutants)} mutants, {len(found)} faults", flush=True)
        report = {
            "seed": args.seed,
            "models": names,
            "mutants": start + len(mutants),
            "bombs": len(bombs()),
            "faults": found,
        }
        write(args.results, json.dumps(report, indent=1) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

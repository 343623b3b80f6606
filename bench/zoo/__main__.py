"""`python -m bench.zoo --list`, `python -m bench.zoo NAME ... --size small --out DIR`."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from bench.zoo import attention, convolution_table, language
from bench.zoo.export import UnfitError, Variant, build, check, export
from bench.zoo.network import Entry

ENTRIES = (*language.ENTRIES, *attention.ENTRIES, *convolution_table.ENTRIES)
CACHE = Path(__file__).resolve().parents[1] / "cache"


def main(arguments: list[str] | None = None) -> int:
    """Export the networks asked for; 1 when a file could not be made or is unfit."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks; all when none is given")
    parser.add_argument("--list", action="store_true", help="print the networks and their variants")
    parser.add_argument("--size", choices=("small", "full"), default="small")
    parser.add_argument("--variant", action="append", help="only these, such as ts17-dynamic-bn")
    parser.add_argument("--out", type=Path, help="folder (default: bench/cache/SIZE)")
    parser.add_argument("--missing", action="store_true", help="leave files that exist as they are")
    options = parser.parse_args(arguments)
    known = {entry.name: entry for entry in ENTRIES}
    if options.list:
        for entry in ENTRIES:
            print(f"{entry.name:18} {' '.join(entry.variants)}")
        return 0
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"no such network: {', '.join(unknown)} (see --list)")
    folder: Path = options.out or CACHE / options.size
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    failed = 0
    for name in options.names or known:
        variants = [v for v in known[name].variants if not options.variant or v in options.variant]
        paths = {folder / v.file_name(name): v for v in map(Variant.parse, variants)}
        if options.missing:
            paths = {path: v for path, v in paths.items() if not path.exists()}
        failed += _one(known[name], options.size, paths)
    return 1 if failed else 0


def _one(entry: Entry, size: str, paths: Mapping[Path, Variant]) -> int:
    """Export one network to `paths`; how many failed."""
    failed = 0
    network = build(entry, size) if paths else None
    for path, variant in paths.items():
        assert network is not None
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the exporters print progress
                export(network, variant, path, size)
            note = check(path, network, variant, size)
        except Exception as error:  # noqa: BLE001 - exporters raise anything; the others go on
            failed += 1
            path.unlink(missing_ok=True)
            kind = "unfit" if isinstance(error, UnfitError) else type(error).__name__
            print(f"FAILED {path.name}: {kind}: {str(error).strip().splitlines()[0][:200]}")
        else:
            kb = path.stat().st_size // 1024
            print(f"{path.name} {kb} kB {time.perf_counter() - start:.0f} s; {note}")
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main())

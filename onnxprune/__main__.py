"""``python -m onnxprune``: the same as the ``onnxprune`` command."""

import sys

from onnxprune.cli import main

if __name__ == "__main__":
    sys.exit(main())

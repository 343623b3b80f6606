"""Write what is made from the declared options: the stub, the reference, the recipe schema.

    python docs/generate.py

``tests/cli/test_reference.py`` compares the files with what this makes.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # what is beside this file is described, not what is installed

import onnxprune
from onnxprune.config import (
    COMMANDS,
    about,
    default_text,
    option_of,
    options_of,
    spelling,
)
from onnxprune.jobs import recipe

_STUB = """# Types of what `import onnxprune` offers. Made by docs/generate.py from the options.

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

{imports}

__version__: str
__all__ = {names}

"""

_REFERENCE = """# Options

Every option of every command, as `onnxprune help OPTION` explains it. Names on the command line
have dashes (`--max-drop`), those of Python functions underscores (`max_drop`). Recipes hold the
options of `onnxprune prune`; [recipe.schema.json](recipe.schema.json) is their JSON schema.

"""


def stub() -> str:
    """``onnxprune/__init__.pyi``: real keywords for editors and type checkers."""
    functions = {name: getattr(onnxprune, name) for name in onnxprune.__all__ if name in COMMANDS}
    objects = [name for name in onnxprune.__all__ if name not in (*functions, "__version__")]
    text = "\n".join(_function(name, function) for name, function in functions.items())
    imports: dict[str, set[str]] = {}
    for name in objects:
        imports.setdefault(getattr(onnxprune, name).__module__, set()).add(f"{name} as {name}")
    for home, names in (
        ("onnxprune.config", ("AdviseOptions", "BenchOptions", "EvalOptions", "QuantizeOptions")),
        ("onnxprune.config", ("SensitivityOptions", "StoreOptions", "FilePath")),
        ("onnxprune.evaluate.protocol", ("Settings",)),
        ("onnxprune.jobs.advise.job", ("AdviceReport",)),
        ("onnxprune.model", ("ModelLike",)),
        ("onnxprune.quantities", ("Budget", "Sparsity")),
    ):
        used = {name for name in names if re.search(rf"\b{name}\b", text)}
        imports.setdefault(home, set()).update(used)
    lines = [f"from {home} import {', '.join(sorted(each))}" for home, each in imports.items()]
    names = json.dumps(onnxprune.__all__)
    return _STUB.format(imports="\n".join(sorted(lines)), names=names) + text


def _function(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    parameters: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        annotation = _annotation(str(each.annotation))
        shown = "..." if callable(each.default) or each.default == {} else repr(each.default)
        default = "" if each.default is each.empty else f" = {shown}"
        parameters.append(f"{each.name}: {annotation}{default}")
    lines = "".join(f"    {each},\n" for each in parameters)
    result = _annotation(str(signature.return_annotation))
    text = inspect.cleandoc(function.__doc__ or "").replace("\n", "\n    ")
    quotes = '"' * 3
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return f"def {name}(\n{lines}) -> {result}:\n    {quotes}{text}\n    {quotes}\n"


def _annotation(text: str) -> str:
    text = text.replace("models.", "")
    return "Callable[[str], None]" if text == "Progress" else text


def reference() -> str:
    """``docs/reference/options.md``: a table for each heading of each command."""
    return _REFERENCE + "\n".join(_command(name) for name in COMMANDS)


def _command(name: str) -> str:
    groups: dict[str, list[str]] = {}
    for _, each in options_of(name):
        option, default = option_of(each), default_text(each, name)
        words = spelling(each)
        if option.reader.metavar:
            words += f" {option.reader.metavar}"
        text = about(each, name)
        cells = (f"`{words}`", text, default)
        row = " | ".join(cell.replace("|", "\\|") for cell in cells)
        groups.setdefault(option.group, []).append(f"| {row} |")
    return "\n".join([f"## onnxprune {name}", "", *_tables(groups)])


def _tables(groups: dict[str, list[str]]) -> Iterator[str]:
    for heading, rows in groups.items():
        yield from (f"**{heading.capitalize()}**", "", "| option | meaning | default |")
        yield from ("| --- | --- | --- |", *rows, "")


def schema() -> str:
    """``docs/reference/recipe.schema.json``."""
    return json.dumps(recipe.schema(), indent=2) + "\n"


FILES: dict[str, Callable[[], str]] = {
    "onnxprune/__init__.pyi": stub,
    "docs/reference/options.md": reference,
    "docs/reference/recipe.schema.json": schema,
}
"""What is made, by path."""


if __name__ == "__main__":
    for path, make in FILES.items():
        (ROOT / path).write_text(make(), encoding="utf-8")

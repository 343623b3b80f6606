# Types of what `import onnxprune` offers. Made by docs/generate.py from the options.

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from onnxprune.config import SensitivityOptions
from onnxprune.errors import OnnxpruneError as OnnxpruneError
from onnxprune.evaluate.protocol import 
from onnxprune.graph.analysis import Analysis as Analysis, analyse as analyse
from onnxprune.graph.cost import Cost as Cost
from onnxprune.graph.plan.core import Plan as Plan, load_plan as load_plan
from onnxprune.graph.surgery import cut as cut
from onnxprune.jobs.advise.evidence import 
from onnxprune.jobs.advise.methods import 
from onnxprune.jobs.prune import replay as replay
from onnxprune.jobs.recover import recover_model as recover_model
from onnxprune.jobs.result import Result as Result
from onnxprune.model import 
from onnxprune.model.core import Model as Model
from onnxprune.model.reading import load as load
from onnxprune.model.writing import save as save
from onnxprune.quantities import 
from onnxprune.select.sensitivity import Sensitivity as Sensitivity, load_sensitivity as load_sensitivity

__version__: str
__all__ = ["Analysis", "Cost", "Model", "OnnxpruneError", "Plan", "Result", "Sensitivity", "analyse", "cut", "load", "load_plan", "load_sensitivity", "prune", "recover_model", "replay", "save", "sensitivity"]

def prune(
    source: Any,
    options: Options | None = None,
    *,
    tell: Callable[[str], None] = ...,
    flags: object,
) -> Result:
    """Remove what costs least, and check that nothing else changed.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: what to remove and how; or give the same as keywords
            (``prune(path, ratio=0.3, calib=batches)``).
        tell: hears what is being done.
        flags: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.
    """

def sensitivity(
    source: Any,
    options: Options | None = None,
    request: SensitivityOptions | None = None,
    *,
    tell: Callable[[str], None] = ...,
    flags: object,
) -> Sensitivity:
    """Prune every group, block and weight alone, at several ratios, and measure what it costs.

    Units that belong together go together: a row is a group, not a layer. Everything else stays as
    it is, and nothing is refitted, so a row says how much a part is needed, not how well its loss
    can be made up for.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: inputs, labels, metric, criterion and what to skip; or give the same as keywords.
        request: what to sweep and who does it; or give its fields as keywords
            (``sensitivity(path, calib=batches, ratios=(0.25, 0.5), kinds=("groups",))``).
        tell: hears the progress.
        flags: the options, and the fields of the request, by name.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or there is nobody to do
            the work.
    """

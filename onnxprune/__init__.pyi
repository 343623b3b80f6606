# Types of what `import onnxprune` offers. Made by docs/generate.py from the options.

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from onnxprune.config import AdviseOptions, BenchOptions, EvalOptions, FilePath, Options as Options, QuantizeOptions, SensitivityOptions, StoreOptions
from onnxprune.errors import OnnxpruneError as OnnxpruneError
from onnxprune.evaluate.protocol import Settings
from onnxprune.graph.analysis import Analysis as Analysis, analyse as analyse
from onnxprune.graph.cost import Cost as Cost
from onnxprune.graph.interface import Interface as Interface
from onnxprune.graph.plan.core import Plan as Plan, load_plan as load_plan
from onnxprune.graph.surgery import cut as cut
from onnxprune.jobs.advise.job import AdviceReport
from onnxprune.jobs.bench.schema import Bench as Bench
from onnxprune.jobs.eval import Assessment as Assessment
from onnxprune.jobs.quantize.job import Quantized as Quantized
from onnxprune.jobs.result import Result as Result
from onnxprune.jobs.store import Stored as Stored
from onnxprune.jobs.verify import Verification as Verification
from onnxprune.model import ModelLike
from onnxprune.model.core import Model as Model
from onnxprune.model.reading import load as load
from onnxprune.model.writing import save as save
from onnxprune.quantities import Budget, Sparsity
from onnxprune.select.sensitivity import Sensitivity as Sensitivity, load_sensitivity as load_sensitivity

__version__: str
__all__ = ["Analysis", "Assessment", "Bench", "Cost", "Interface", "Model", "OnnxpruneError", "Options", "Plan", "Quantized", "Result", "Sensitivity", "Stored", "Verification", "__version__", "advise", "analyse", "apply", "bench", "cut", "eval", "load", "load_plan", "load_sensitivity", "prune", "quantize", "recover", "save", "sensitivity", "store", "verify"]

def advise(
    model: FilePath,
    options: AdviseOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    backend: str | Sequence[str] = ('cpu',),
    batch: int | str | None = None,
    threads: int | str | None = None,
    calib: object | None = None,
    preprocess: object | None = None,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
) -> AdviceReport:
    """Try what could be done to a model on its backends, and say what pays.

    The commands of the advice are carried out here on few samples and their results timed beside
    the original, so an estimate is that of the command it stands beside.

    Args:
        model: path of the model.
        options: backends and inputs; or give the same as keywords
            (``advise("model.onnx", backend="cpu,openvino")``).
        progress: called with a line of text at each stage.

    Returns:
        The evidence, and the advice that follows from it:
        ``evidence, advice = onnxprune.advise("model.onnx")``.

    Raises:
        OnnxpruneError: the model or the inputs cannot be read, or a backend is unknown. A backend
            that cannot be profiled is part of the evidence, with the reason.

    Options:
        backend: backends, e.g. cpu,openvino (default: cpu).
        batch: samples per run (default: 1, or what the model fixes).
        threads: threads of the runtimes (default: their own choice).
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
    """

def apply(
    model: ModelLike,
    plan: Plan | FilePath,
    options: Options | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    recover: Literal["auto", "none", "bias", "lstsq", "pcg"] = 'auto',
    max_drop: float | str | None = None,
    calib: object | None = None,
    calib_samples: int | str = 2048,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    eval: object | None = None,
    eval_labels: object | None = None,
    slices: object | None = None,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    store: Literal["auto", "dense", "sparse", "packed", "external"] = 'dense',
    certificate: bool = True,
) -> Result:
    """Apply a plan to a model of the same graph, and check the result.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        plan: the units, blocks and weights to remove, or the file of a plan.
        options: samples and recovery.
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: the plan was made for another graph.

    Example:
        >>> from onnxprune.data import zoo
        >>> model = zoo.get("digits_mlp").model
        >>> plan = prune(model, ratio=0.25).plan
        >>> apply(model, plan).ok
        True

    Options:
        recover: recovery by calibration data: auto, lstsq, pcg, bias, none (default: auto). bias:
            biases, BatchNormalization statistics, and gains of normalisations that lost channels.
            lstsq: every layer by least squares too. pcg: the same, single weights by conjugate
            gradients. auto: layers also together with the ones before them, single weights by
            conjugate gradients and then as a whole by gradients of the outputs. Changes stay only
            where held-out inputs agree that they help.
        max_drop: maximum accepted metric drop, e.g. 1%. Without labels it is a drop of agreement
            with the original.
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 2048).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        eval: inputs that judge the result, in any form that calib= takes; nothing is fitted to
            them. All of calib= is then fitted to; without eval=, a tenth of it is held out to
            judge. It may be given alone: then nothing is fitted, and the result is judged all the
            same.
        eval_labels: labels of the eval= inputs, in any form that labels= takes.
        slices: group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv.
            One name or number per sample: of eval= where that is given, else of calib=. A group
            that collapses makes the result degraded.
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        store: form of weights: dense, sparse, packed, external, auto (default: dense). sparse is
            sparse_initializer; packed is decoded by standard operators at load; external is dense,
            beside the model; auto is the smallest for each weight. The outputs are the same in all
            of them.
        certificate: write NAME.certificate.json beside the model, for `onnxprune verify`. It holds
            the plan, the verdicts, and digests of the model, the dense model and the samples; the
            metadata of the model hold the digests.
    """

def bench(
    files: Sequence[FilePath],
    options: BenchOptions | None = None,
    *,
    protocol: Settings | None = None,
    progress: Callable[[str], None] | None = None,
    backend: str | Sequence[str] = ('cpu',),
    batch: int | str | Sequence[int] = (),
    threads: int | str | Sequence[int] = (),
    skip_missing: bool = False,
    processes: int | str = 6,
    rounds: int | str = 10,
    seed: int | str = 0,
    calib: object | None = None,
    calib_samples: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
) -> Bench:
    """Measure models on backends.

    Args:
        files: models; the first is the reference of the others.
        options: of the measurement; or give the same as keywords
            (``bench(["dense.onnx", "pruned.onnx"], backend="cpu,openvino", batch=(1, 8))``).
        protocol: of the timing; processes, rounds and seed of the options by default.
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: a model or the inputs cannot be read, or a backend is unknown. What goes
            wrong on one backend, or with one model, is a declined row instead.

    Options:
        backend: backends, e.g. cpu,openvino (default: cpu).
        batch: samples per run, e.g. 1,8 (default: 1, or what the model fixes).
        threads: threads of the runtime, e.g. 1,2 (default: its own choice).
        skip_missing: measure on the other backends where some cannot be used here. Without it, a
            backend that cannot be used is an error before anything is measured.
        processes: fresh processes of each model, one after another (default: 6). A process can be a
            few percent faster than the next for its whole life, so intervals take several; with one
            they are too narrow, and a note says so.
        rounds: interleaved rounds in each process (default: 10). In a round every model runs for 30
            ms (once, if a run takes longer), in random order.
        seed: random seed (default: 0).
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most samples that outputs are compared and tasks scored on (default: all with
            labels=, else 256).
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
    """

def eval(
    model: ModelLike,
    against: ModelLike | None = None,
    options: EvalOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    data: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    preprocess: object | None = None,
    slices: object | None = None,
    samples: int | str | None = None,
    batch: int | str = 32,
    max_drop: float | str | None = None,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
) -> Assessment:
    """Measure a model on data, alone or against the dense model it was made from.

    With labels, the task metric is measured, with its standard error. Against a dense model, the
    outputs are compared too, quality and structure are judged, and the error of the change is that
    of pairs.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        against: the dense model, likewise; its inputs and outputs have the same names.
        options: data, labels and metric; or give the same as keywords
            (``eval(path, data="test.npz", labels="test.npz")``).
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: a model or the data cannot be used, or there are no data, or neither labels
            nor a dense model.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> small = prune(entry.model, ratio=0.25).model
        >>> data = entry.evaluation
        >>> eval(small, entry.model, data=data, labels=data).structure.status
        'verified'

    Options:
        data: inputs: .npz, .npy, a folder or module.py:function. In any form that calib= takes
            elsewhere.
        labels: labels of the inputs: .npy, .npz, .txt, .csv; boxes: .json or a folder.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        slices: group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv.
            One name or number per sample of data=.
        samples: most samples used (default: all).
        batch: samples per run (default: 32).
        max_drop: maximum accepted drop against the dense model, e.g. 1%. Without labels it is a
            drop of agreement with the dense model.
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
    """

def prune(
    model: ModelLike,
    options: Options | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    ratio: float | str | None = None,
    target: str | Budget | None = None,
    heads: float | str | None = None,
    blocks: int | str = 0,
    sparsity: float | str | Sparsity | None = None,
    ratios: str | Sequence[str] | Mapping[str, float | str] = (),
    vocab: str | Sequence[str] | Sequence[int] = (),
    keep_outputs: str | Sequence[str] | Sequence[int] | Mapping[str, Sequence[int | str]] = (),
    keep_ids: bool = False,
    unknown: int | str | None = None,
    smallest: str = 'macs',
    max_ratio: float | str = 0.8,
    max_blocks: int | str | None = None,
    steps: int | str = 1,
    schedule: Literal["linear", "cubic"] = 'cubic',
    threads: int | str | None = None,
    skip: str | Sequence[str] = (),
    skip_small: int | str | None = None,
    skip_first: int | str = 0,
    skip_last: int | str = 0,
    tied: bool = False,
    sensitivity: str | PathLike[str] | None = None,
    criterion: str | None = None,
    allocation: Literal["uniform", "global"] | None = None,
    sparse_method: Literal["magnitude", "wanda", "ria", "sparsegpt", "admm"] | None = None,
    sparse_allocation: Literal["per-tensor", "per-row", "global", "curves", "sensitivity"] | None = None,
    permute: bool = False,
    round_to: int | str = 'auto',
    allow_inexact: bool = False,
    interface: bool = False,
    recover: Literal["auto", "none", "bias", "lstsq", "pcg"] = 'auto',
    max_drop: float | str | None = None,
    calib: object | None = None,
    calib_samples: int | str = 2048,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    eval: object | None = None,
    eval_labels: object | None = None,
    slices: object | None = None,
    tokenizer: str | PathLike[str] | None = None,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    store: Literal["auto", "dense", "sparse", "packed", "external"] = 'dense',
    cache: bool = True,
    certificate: bool = True,
) -> Result:
    """Remove what costs least, and check that nothing else changed.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: what to remove and how; or give the same as keywords
            (``prune(path, ratio=0.3, calib=batches)``).
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or the budget cannot be
            met.

    Example:
        >>> from onnxprune.data import zoo
        >>> result = prune(zoo.get("digits_mlp").model, ratio=0.25)
        >>> result.ok, result.remaining.params < result.dense.params
        (True, True)

    Options:
        ratio: share of the units of every group to remove, e.g. 0.3 or 30%.
        target: size of the result: macs=50%, params=1.2M, bytes=4MiB, latency=0.5x@cpu. Amounts are
            absolute (1.2M, 4MiB, 5ms) or relative to the dense model (50%, 0.5x). A latency names
            the backend it is measured on, as in latency=5ms@openvino.
        heads: share of all attention heads to remove, e.g. 25%. With allocation global, the heads
            whose removal costs least go, wherever they are.
        blocks: number of residual blocks to bypass (default: 0).
        sparsity: zeros among the remaining weights: 50%, or 2:4 (2 of every 4 are kept).
        ratios: share for the groups that match a name, e.g. 'layer1*=0.3'. The last match wins,
            over all other amounts. With allocation global it is a share of the units of all groups
            of one kind that match.
        vocab: token ids to keep: ids:FILE, tokens:FILE, calib or top=N. calib keeps the ids that
            occur in calib=, top=N the N most frequent of them; several are joined. The input with
            the largest vocabulary is meant; others are named in front, as in segment_ids=calib.
            Special tokens of tokenizer= stay. The result takes new ids, which NAME.interface.json
            maps.
        keep_outputs: classes to keep of an output, e.g. logits=0,2,5-7 or labels. Labels are those
            in the metadata of the model, or of a file: logits=@labels.txt:cat,dog. Of detectors,
            classes are counted without coordinates and background (detector= names the layout). The
            other outputs stay.
        keep_ids: let a model with a smaller vocab= take the old ids. The file then maps ids itself:
            removed ones are read as the unknown token, and outputs over the vocabulary keep their
            size, with the lowest value where an id is removed.
        unknown: id or token that removed ids are read as (default: that of tokenizer=).
        smallest: cost that max_drop= alone minimises: macs, params, bytes, latency@cpu (default:
            macs).
        max_ratio: largest share of any one group to remove (default: 0.8).
        max_blocks: most blocks that target= may bypass, given calib=; 0 forbids it (default: any
            number). Blocks go only where calibration data say that this costs clearly less than
            narrower layers.
        steps: number of steps; the model is recovered and measured anew after each (default: 1).
        schedule: pace of steps: linear, or cubic (most at first) (default: cubic).
        threads: threads that a latency is measured with (default: the backend's choice).
        skip: names to leave alone: groups, blocks, weights.
        skip_small: sparsity= skips layers with fewer inputs or outputs than N (256). Inputs count
            once per kernel position.
        skip_first: sparsity= skips the first N layers (default: 0).
        skip_last: sparsity= skips the last N layers (default: 0).
        tied: apply N:M to tables that are looked up too (tied embeddings).
        sensitivity: meet target= by a file of `onnxprune sensitivity --json`. What was measured
            there stands in for error curves.
        criterion: importance of units, as `onnxprune help criterion` lists it (default: the best
            that the data allow).
        allocation: uniform: the same share of every group; global: by importance. The default is
            global for a target, and for heads and ratios with calibration data; uniform for a
            ratio.
        sparse_method: choice of weights: magnitude, wanda, ria, sparsegpt or admm (default: the
            best that the data allow).
        sparse_allocation: sparsity of each layer: per-tensor, per-row, global, curves, sensitivity.
            curves: by the error of each layer; sensitivity: by its effect on the outputs, the
            default with calibration data; per-tensor is the default without. No effect with N:M.
        permute: reorder channels so that N:M costs less.
        round_to: keep multiples of N units; auto: what is fast on the backend (default: auto).
        allow_inexact: also remove units that a normalisation averages over. The result then differs
            from the masked original, so the check cannot hold it to that.
        interface: also offer what changes graph inputs and outputs. Widths of embeddings and heads
            with a cache, say; the result comes with a map of what changed. Vocabularies and classes
            are removed by vocab= and keep_outputs=.
        recover: recovery by calibration data: auto, lstsq, pcg, bias, none (default: auto). bias:
            biases, BatchNormalization statistics, and gains of normalisations that lost channels.
            lstsq: every layer by least squares too. pcg: the same, single weights by conjugate
            gradients. auto: layers also together with the ones before them, single weights by
            conjugate gradients and then as a whole by gradients of the outputs. Changes stay only
            where held-out inputs agree that they help.
        max_drop: maximum accepted metric drop, e.g. 1%; alone, prune as far as it allows. Without
            labels it is a drop of agreement with the original.
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 2048).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        eval: inputs that judge the result, in any form that calib= takes; nothing is fitted to
            them. All of calib= is then fitted to; without eval=, a tenth of it is held out to
            judge. It may be given alone: then nothing is fitted, and the result is judged all the
            same.
        eval_labels: labels of the eval= inputs, in any form that labels= takes.
        slices: group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv.
            One name or number per sample: of eval= where that is given, else of calib=. A group
            that collapses makes the result degraded.
        tokenizer: tokenizer of the model, written anew for vocab: a file or folder. tokenizer.json,
            vocab.txt, vocab.json with merges.txt, or a SentencePiece .model. What is written lies
            beside the output; the files that are given stay as they are.
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        store: form of weights: dense, sparse, packed, external, auto (default: dense). sparse is
            sparse_initializer; packed is decoded by standard operators at load; external is dense,
            beside the model; auto is the smallest for each weight. The outputs are the same in all
            of them.
        cache: keep error curves for later runs on the same model and inputs. $ONNXPRUNE_CACHE says
            where.
        certificate: write NAME.certificate.json beside the model, for `onnxprune verify`. It holds
            the plan, the verdicts, and digests of the model, the dense model and the samples; the
            metadata of the model hold the digests.
    """

def quantize(
    model: ModelLike,
    settings: QuantizeOptions | None = None,
    options: Options | None = None,
    *,
    first: Options | None = None,
    progress: Callable[[str], None] | None = None,
    backend: str = 'cpu',
    dynamic: bool = False,
    per_tensor: bool = False,
    reduce_range: bool = False,
    ranges: Literal["minmax", "percentile", "entropy"] = 'minmax',
    ops: Literal["linear", "all"] | None = None,
    skip: str | Sequence[str] = (),
    max_drop: float | str | None = None,
    calib: object | None = None,
    calib_samples: int | str = 2048,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    eval: object | None = None,
    eval_labels: object | None = None,
    slices: object | None = None,
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    certificate: bool = True,
) -> Quantized:
    """Quantize a model to INT8 so that its zeros, and N:M among them, stay zeros.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        settings: the options of the quantization.
        options: the inputs (``calib`` and what belongs to it), ``labels``, ``metric``,
            ``max_drop`` and ``seed``; the rest has no meaning here.
        first: a pruning run that comes before; it takes inputs from ``options`` where it names
            none. Outputs are then compared with those of the model before both.
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: activations need inputs to be measured on and there are none, the model
            has nothing to quantize, or onnxruntime refuses it.

    Example:
        >>> from onnxprune.data import zoo
        >>> result = quantize(zoo.get("digits_mlp").model, dynamic=True)
        >>> result.ok, result.bytes[1] < result.bytes[0] / 2
        (True, True)

    Options:
        backend: backend to quantize for, e.g. cpu, openvino, openvino-sparse, tensorrt (default:
            cpu). openvino-sparse lays weights out as [N,K]. An execution provider, as in cuda, also
            runs the model while ranges are measured and outputs compared; the CPU does so
            otherwise.
        dynamic: quantize activations at run time; needs no calib=.
        per_tensor: one scale per weight instead of one per output.
        reduce_range: 7-bit weights, for x86 without VNNI, whose 16-bit sums saturate.
        ranges: ranges of activations: minmax, percentile or entropy (default: minmax).
        ops: linear: products and convolutions only; all: what lies between too (default: all for
            networks of convolutions).
        skip: names of nodes and weights that stay float.
        max_drop: maximum accepted metric drop, e.g. 1%. Without labels it is a drop of agreement
            with the original.
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 2048).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        eval: inputs that judge the result, in any form that calib= takes; nothing is fitted to
            them. All of calib= is then fitted to; without eval=, a tenth of it is held out to
            judge. It may be given alone: then nothing is fitted, and the result is judged all the
            same.
        eval_labels: labels of the eval= inputs, in any form that labels= takes.
        slices: group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv.
            One name or number per sample: of eval= where that is given, else of calib=. A group
            that collapses makes the result degraded.
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        certificate: write NAME.certificate.json beside the model, for `onnxprune verify`. It holds
            the plan, the verdicts, and digests of the model, the dense model and the samples; the
            metadata of the model hold the digests.
    """

def recover(
    dense: ModelLike,
    pruned: ModelLike,
    options: Options | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    recover: Literal["auto", "none", "bias", "lstsq", "pcg"] = 'auto',
    max_drop: float | str | None = None,
    calib: object | None = None,
    calib_samples: int | str = 2048,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    eval: object | None = None,
    eval_labels: object | None = None,
    slices: object | None = None,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    certificate: bool = True,
) -> Result:
    """Refit a model that somebody else pruned to what the dense one computes.

    What was removed (units, residual branches, single weights) is found by comparing graphs
    and weights; names may differ, and weights may have changed. Only weights are changed, and zeros
    among them stay where they are.

    Args:
        dense: the model before pruning: a path, a ``ModelProto``, a graphsurgeon graph or a loaded
            model; never changed.
        pruned: the model after pruning elsewhere; never changed.
        options: where inputs come from and what runs the models; or give the same as keywords
            (``recover(dense, pruned, calib=batches)``).
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: there are no real inputs, the pruned model was not made from the dense one,
            or its removed parts cannot be determined.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> cut = prune(entry.model, ratio=0.5).model
        >>> result = recover(entry.model, cut, calib=entry.calibration, calib_samples=64)
        >>> result.ok, result.better
        (True, True)

    Options:
        recover: recovery by calibration data: auto, lstsq, pcg, bias, none (default: auto). bias:
            biases, BatchNormalization statistics, and gains of normalisations that lost channels.
            lstsq: every layer by least squares too. pcg: the same, single weights by conjugate
            gradients. auto: layers also together with the ones before them, single weights by
            conjugate gradients and then as a whole by gradients of the outputs. Changes stay only
            where held-out inputs agree that they help.
        max_drop: maximum accepted metric drop, e.g. 1%. Without labels it is a drop of agreement
            with the original.
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 2048).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        eval: inputs that judge the result, in any form that calib= takes; nothing is fitted to
            them. All of calib= is then fitted to; without eval=, a tenth of it is held out to
            judge. It may be given alone: then nothing is fitted, and the result is judged all the
            same.
        eval_labels: labels of the eval= inputs, in any form that labels= takes.
        slices: group of each sample that judges, to report one by one: .npy, .npz, .txt or .csv.
            One name or number per sample: of eval= where that is given, else of calib=. A group
            that collapses makes the result degraded.
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        certificate: write NAME.certificate.json beside the model, for `onnxprune verify`. It holds
            the plan, the verdicts, and digests of the model, the dense model and the samples; the
            metadata of the model hold the digests.
    """

def sensitivity(
    model: ModelLike,
    options: Options | None = None,
    request: SensitivityOptions | None = None,
    *,
    progress: Callable[[str], None] | None = None,
    ratios: str | Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9),
    kinds: str | Sequence[str] = ('groups', 'blocks', 'weights'),
    drop: float | str | None = None,
    workers: int | str | None = 1,
    dask: str = '',
    max_ratio: float | str = 0.8,
    skip: str | Sequence[str] = (),
    criterion: str | None = None,
    sparse_method: Literal["magnitude", "wanda", "ria", "sparsegpt", "admm"] | None = None,
    allow_inexact: bool = False,
    calib: object | None = None,
    calib_samples: int | str = 512,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    cache: bool = True,
) -> Sensitivity:
    """Prune every group, block and weight alone, at several ratios, and measure what it costs.

    Units that belong together go together: a row is a group, not a layer. Everything else stays as
    it is, and nothing is refitted, so a row says how much a part is needed, not how well its loss
    can be made up for.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: inputs, labels, metric, criterion and what to skip.
        request: targets, ratios and workers.
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or there is nobody to do
            the work.

    Example:
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> sweep = sensitivity(
        ...     entry.model, calib=entry.calibration, calib_samples=32, ratios=(0.25, 0.5),
        ...     kinds="groups",
        ... )
        >>> [target.kind for target in sweep.targets]
        ['ffn', 'ffn', 'ffn']

    Options:
        ratios: shares to remove (default: 0.1,0.25,0.5,0.75,0.9).
        kinds: what is pruned: some of groups, blocks, weights (default: groups,blocks,weights).
        drop: metric drop that recommended ratios may cost together, e.g. 1%.
        workers: number of processes (default: all cores where it is worth it; 1 in Python).
        dask: address of a Dask scheduler, e.g. tcp://host:8786.
        max_ratio: largest share of any one group to remove (default: 0.8).
        skip: names to leave alone: groups, blocks, weights.
        criterion: importance of units, as `onnxprune help criterion` lists it (default: the best
            that the data allow).
        sparse_method: choice of weights: magnitude, wanda, ria, sparsegpt or admm (default: the
            best that the data allow).
        allow_inexact: also remove units that a normalisation averages over. The result then differs
            from the masked original, so the check cannot hold it to that.
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 512).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        cache: keep error curves for later runs on the same model and inputs. $ONNXPRUNE_CACHE says
            where.
    """

def store(
    model: ModelLike,
    options: StoreOptions | None = None,
    *,
    store: Literal["auto", "dense", "sparse", "packed", "external"] = 'auto',
    values: Literal["exact", "fp32", "fp16", "int8"] = 'exact',
    backend: str | Sequence[str] = ('cpu',),
    ram_limit: int | str | None = None,
    always: bool = False,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
    certificate: bool = True,
) -> Stored:
    """Give every weight of a model an encoding.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
            Weights that are packed or sparse in it are made dense first.
        options: how weights are written; or give the same as keywords
            (``store(path, store="packed", values="fp16")``).

    Raises:
        OnnxpruneError: the options or the model cannot be used.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> sparse = prune(zoo.get("digits_mlp").model, sparsity="90%").model
        >>> stored = store(sparse, store="packed")
        >>> any(weight.form != "dense" for weight in stored.weights)
        True

    Options:
        store: form of weights: auto, dense, sparse, packed, external (default: auto). auto takes
            the smallest for each weight that all backends read.
        values: values of packed floats: exact, fp32, fp16 or int8 (default: exact).
        backend: backends that have to read it, e.g. cpu,openvino (default: cpu).
        ram_limit: memory for decoding at load (default: a quarter of this machine's).
        always: take the form even where it is larger.
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
        certificate: write NAME.certificate.json beside the model, for `onnxprune verify`. It holds
            the plan, the verdicts, and digests of the model, the dense model and the samples; the
            metadata of the model hold the digests.
    """

def verify(
    model: FilePath,
    dense: FilePath,
    options: Options | None = None,
    *,
    plan: Plan | FilePath | None = None,
    progress: Callable[[str], None] | None = None,
    calib: object | None = None,
    calib_samples: int | str = 2048,
    batch: int | str = 32,
    memory: int | str | None = None,
    preprocess: object | None = None,
    labels: object | None = None,
    metric: str | Callable[..., float] = 'accuracy',
    detector: str | None = None,
    vocabulary: object | None = None,
    blank: int | str = 0,
    threshold: float | str = 0.5,
    backend: str = 'cpu',
    seed: int | str = 0,
    shapes: str | Sequence[str] | Mapping[str, Sequence[int]] = ...,
) -> Verification:
    """Check that a written model is what its certificate says, and what remains of the dense one.

    Args:
        model: path of the .onnx file; its certificate lies beside it.
        dense: path of the model that it was made from.
        options: samples to measure the quality on; or give the same as keywords
            (``verify(small, dense, calib=batches)``).
        plan: the units, blocks and weights that are said to be removed, or the file of a plan.
        progress: called with a line of text at each stage.

    Raises:
        OnnxpruneError: a model cannot be read, or a certificate is damaged or belongs to another
            model.

    Example:
        >>> import tempfile
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> dense = zoo.get("digits_mlp").model
        >>> small = prune(dense, ratio=0.5).save(f"{tempfile.mkdtemp()}/small.onnx")
        >>> verify(small, dense).ok
        True

    Options:
        calib: calibration inputs: .npz, .npy, a folder or module.py:function. An .npz has one array
            per input, with the samples along the first axis. A folder holds arrays, pictures or
            ONNX test data. In Python, batches: mappings from input names to arrays. Labels are not
            needed.
        calib_samples: most calibration samples used (default: 2048).
        batch: samples per run (default: 32).
        memory: most memory for work on calibration data, e.g. 2GB (default: 4GB, or less where less
            is free). It bounds samples, values inside the network and second moments together.
            Layers that are too wide for it are priced by the variances of their inputs and keep
            their weights; notes name them. Results depend on this amount, never on the memory that
            is free.
        preprocess: preprocessing of pictures: imagenet, cifar10, clip or module.py:function.
        labels: labels of the calibration inputs: .npy, .npz, .txt or .csv.
        metric: metric for the labels: accuracy, f1, spearman, wer, map, or module.py:function
            (default: accuracy). `onnxprune help metric` lists all; several outputs need a name, as
            in accuracy@logits.
        detector: layout of a detector's outputs, for metric='map': yolov5, yolov8, yolox, ssd, detr
            (default: told from the outputs).
        vocabulary: text of the tokens, for metric='cer' and wer: one per line, or JSON.
        blank: number of the token of CTC outputs that stands for nothing, or last (default: 0).
        threshold: least probability of a class that is present, for metric='f1' of sigmoids
            (default: 0.5).
        backend: backend to run on, as `onnxprune bench --list` names them (default: cpu).
        seed: random seed (default: 0).
        shapes: sizes of inputs that the model leaves open, e.g. input=1x3x224x224.
    """

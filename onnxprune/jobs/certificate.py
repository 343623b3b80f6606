"""Certificates: what a written model claims to be, in its own metadata and in a file beside it.

The metadata hold a short text: digests of the model's own files, of the dense model and of the
document. The document, ``NAME.certificate.json``, holds the plan, the verdicts and the versions.
Both follow from the run alone, so equal runs write equal certificates.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.output_comparison import OutputComparison
from onnxprune.evaluate.verdict import judge
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.difference import changes, is_altered, pair
from onnxprune.graph.plan import Plan, from_document, plan_document, versions
from onnxprune.graph.surgery import cut
from onnxprune.jobs.data_digests import files_of, samples_of
from onnxprune.jobs.interface.narrowing import Narrowing, released
from onnxprune.model.decode import densify
from onnxprune.model.limits import parse_json
from onnxprune.model.seal import KEY, Certify, Digests, Seal, content_hash, document_path
from onnxprune.sparse.reorder import reorder

if TYPE_CHECKING:
    from onnxprune.types import Check

VERSION = 1
_LARGEST = 1 << 28
"""Bytes that a document may have."""
_COPY = "copy the model and its certificate together, or write the model again"
_OWN = ("outputs", "notes", "tails", "pairs", "overscaled")
_JUDGED = tuple(each.name for each in fields(Evaluation) if each.name not in _OWN)
"""Figures that the verdict on the quality follows from, beside those of the outputs."""
_SEVERITY = ("good", "degraded", "broken")
_STATED = ("command", "structure", "quality")
"""What the metadata state beside the digests."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """What a model claims to be.

    Attributes:
        command: the command that made it.
        digests: of its own files.
        dense: content hash of the dense model; see `onnxprune.model.seal.content_hash`.
        plan: what was removed; masks are left out. None where the document is missing.
        zeroed: weight name -> (entries, how many of them may be other than zero).
        changed: names of weights with other values than the cut of the dense model; None where the
            run does not know.
        narrowed: names of weights that are stored in fewer bits.
        quantized: names of weights of the float model that are stored in int8.
        sparsity: as asked for, as in ``2:4``; empty for none.
        precision: type that the whole model was converted to; empty for none.
        data: digest of the samples, their number and description; None without data.
        files: role, name and digest of every file of data that was read.
        structure, quality: the verdicts.
        document: the whole document; None where it is missing.
    """

    command: str
    digests: Digests
    dense: str
    plan: Plan | None = None
    zeroed: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    changed: frozenset[str] | None = None
    narrowed: frozenset[str] = frozenset()
    quantized: frozenset[str] = frozenset()
    sparsity: str = ""
    precision: str = ""
    data: Mapping[str, object] | None = None
    files: tuple[Mapping[str, object], ...] = ()
    structure: str = ""
    quality: str = ""
    document: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Claims:
    """What a run knows of the model that it writes.

    Attributes:
        command: of the run.
        dense: the dense model.
        model: the result, its weights not yet in a form of their own.
        plan: what was removed.
        config: the options of the run: its data.
        analysis: of the dense model, where the run has one.
        sparsity: as asked for.
        precision: type that the whole model was converted to; empty for none.
        narrowed, quantized: names of weights.
        fitted: whether any step may have fitted weights to data.
        changed: gives names of weights with other values than the cut has, or None where that
            cannot be said; by default both models are compared.
        narrowing: ids and classes that left first; ``analysis`` is then of what remained.
        verdicts: gives ``structure``, ``quality`` and what they rest on, once all is written.
    """

    command: str
    dense: models.Model
    model: models.Model
    plan: Plan
    config: Options | None = None
    analysis: Analysis | None = None
    sparsity: str = ""
    precision: str = ""
    narrowed: Iterable[str] = ()
    quantized: Iterable[str] = ()
    fitted: bool = True
    changed: Callable[[], Iterable[str] | None] | None = None
    narrowing: Narrowing | None = None
    verdicts: Callable[[], Mapping[str, object]] = dict


def verdicts(result: object, evaluation: Evaluation, checks: Iterable[Check]) -> dict[str, object]:
    """The verdicts of a run, and the figures and checks that they rest on.

    Args:
        result: of a job.
        evaluation: of its model.
        checks: of its structure.
    """
    figures = {
        **{name: getattr(evaluation, name) for name in _JUDGED},
        "measure": evaluation.measure,
        "value": evaluation.value,
        "drop": evaluation.drop,
        "error": evaluation.drop_error,
        "pairs": evaluation.pairs,
        "outputs": {name: asdict(each) for name, each in evaluation.outputs.items()},
    }
    parts = {name: getattr(result, name, None) for name in ("structure", "quality", "tails")}
    measured = figures if evaluation.outputs else None
    return {"checks": list(checks), "evaluation": measured, **parts}


def certify(claims: Claims) -> Certify:
    """A function that certifies the model of a run, given the digests of its files."""

    def write(digests: Digests) -> tuple[str, bytes]:
        document = {
            "format": KEY,
            "version": VERSION,
            "command": claims.command,
            "model": asdict(digests),
            "dense": {
                "name": claims.dense.path.name if claims.dense.path else "",
                "content": _dense_hash(claims),
            },
            "data": samples_of(claims.config, claims.dense),
            "files": files_of(claims.config),
            "plan": _plan(claims.plan),
            "sparsity": claims.sparsity,
            "precision": claims.precision,
            "weights": {
                "changed": changed_weights(claims),
                "narrowed": sorted(claims.narrowed),
                "quantized": sorted(claims.quantized),
            },
            **{name: plain(value) for name, value in claims.verdicts().items()},
            "versions": versions(),
        }
        content = _lines(document).encode()
        return _text(document, digests, content), content

    return write


def _dense_hash(claims: Claims) -> str:
    """The hash of the dense model as it is in its file: recovery may fold normalisations of it."""
    path = claims.dense.path
    if claims.command == "recover" and path is not None and path.is_file():
        return dense_hash(models.load(path))
    return content_hash(claims.dense)


def _text(document: Mapping[str, Any], digests: Digests, content: bytes) -> str:
    short = {
        "version": VERSION,
        **asdict(digests),
        "dense": document["dense"]["content"],
        "document": hashlib.sha256(content).hexdigest(),
        "command": document["command"],
        **{name: _status(document.get(name)) for name in ("structure", "quality")},
    }
    return json.dumps(short, separators=(",", ":"), sort_keys=True)


def _lines(document: Mapping[str, Any]) -> str:
    """JSON with one line per entry of its objects."""
    parts = []
    for key, value in sorted(document.items()):
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        if isinstance(value, dict) and value:
            entries = (
                f"  {json.dumps(k, ensure_ascii=False)}: "
                f"{json.dumps(v, ensure_ascii=False, sort_keys=True)}"
                for k, v in sorted(value.items())
            )
            text = "{\n" + ",\n".join(entries) + "\n }"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _files(value: object) -> tuple[Mapping[str, object], ...]:
    """Entries on files; certificates of older versions have none."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise TypeError("files")
    return tuple(value)


def _status(verdict: object) -> str:
    return str(verdict.get("status", "")) if isinstance(verdict, Mapping) else ""


def _plan(plan: Plan) -> dict[str, Any]:
    masks = {
        name: {"shape": list(mask.shape), "kept": mask.kept} for name, mask in plan.zeroed.items()
    }
    return plan_document(plan) | {"zeroed": masks}


def plain(value: object) -> Any:  # noqa: ANN401  whatever JSON can hold
    """A value as JSON has it; what is not finite becomes text."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, np.integer):
        return int(value)
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def changed_weights(claims: Claims) -> list[str] | None:
    """Weights with other values than the cut has, masks aside; None where that cannot be said."""
    if claims.changed is not None:
        names = claims.changed()
        return None if names is None else sorted(names)
    if claims.command != "recover" and not claims.fitted:
        return []
    if claims.analysis is None or claims.command == "recover":
        return None
    expected = expected_model(claims.analysis, claims.plan)
    if claims.narrowing is not None:
        expected = released(expected, claims.narrowing)[0]
    pairing = pair(expected, claims.model)
    if pairing.problem:
        return None
    masks = {name: (mask.size, mask.kept) for name, mask in claims.plan.zeroed.items()}
    altered = {name for name, change in changes(pairing) if is_altered(change, masks.get(name))}
    return sorted(altered | {value.name or "" for value in pairing.added})


def expected_model(analysis: Analysis, plan: Plan) -> models.Model:
    """The dense model as a plan cuts and reorders it, its weights as they were."""
    model = cut(analysis, plan.removed, plan.bypassed)
    if plan.reordered:
        model = reorder(analyse(model, inputs=analysis.inputs[0]), model, plan.reordered)
    return model


# --- reading ---------------------------------------------------------------------------------


def read(path: Path, seal: Seal) -> Certificate | None:
    """The certificate of a model file; None if it has none.

    Raises:
        OnnxpruneError: it is damaged, or its two parts do not belong together (exit code 1).
    """
    place = document_path(path.resolve())  # a link is written through
    if seal.text is None:
        if place.is_file():
            raise _refusal(
                f"{path} has no certificate in its metadata, but {place} is there", _COPY
            )
        return None
    where = f"the certificate in {path}"
    short = _parse(seal.text.encode(), where)
    _expect(short.get("version") == VERSION, where, "version", "upgrade onnxprune")
    texts = ("graph", "dense", "document", *_STATED)
    known = {"version", "data", *texts}
    _expect(set(short) == known, where, "list of keys")
    _expect(all(isinstance(short[name], str) for name in texts), where, "type of value")
    own = Digests(short["graph"], _digests(short["data"], where))
    if not place.is_file():
        stated = {name: short[name] for name in _STATED}
        return Certificate(digests=own, dense=short["dense"], **stated)
    content = _bytes(place)
    if hashlib.sha256(content).hexdigest() != short["document"]:
        raise _refusal(f"{place} is not the certificate that {path} was written with", _COPY)
    return _whole(_parse(content, str(place)), short, own, str(place))


def _whole(
    document: Mapping[str, Any], short: Mapping[str, Any], own: Digests, where: str
) -> Certificate:
    """A certificate with its document.

    Raises:
        OnnxpruneError: a value is not of its type, or the metadata say otherwise.
    """
    try:
        weights, dense = document["weights"], document["dense"]["content"]
        plan = dict(document["plan"])
        zeroed = {
            str(name): (math.prod(map(int, each["shape"])), int(each["kept"]))
            for name, each in plan.pop("zeroed").items()
        }
        changed = weights["changed"]
        model = Digests(document["model"]["graph"], _digests(document["model"]["data"], where))
        stated = {
            "command": str(document["command"]),
            **{name: _status(document.get(name)) for name in ("structure", "quality")},
        }
        result = Certificate(
            digests=own,
            dense=str(dense),
            plan=from_document({**plan, "zeroed": {}}, where),
            zeroed=zeroed,
            changed=None if changed is None else frozenset(map(str, changed)),
            narrowed=frozenset(map(str, weights["narrowed"])),
            quantized=frozenset(map(str, weights["quantized"])),
            sparsity=str(document["sparsity"]),
            precision=str(document.get("precision", "")),
            data=document["data"],
            files=_files(document.get("files", [])),
            document=document,
            **stated,
        )
    except OnnxpruneError as error:
        raise _refusal(error.message, error.hint) from error
    except KeyError as error:
        raise _refusal(f"{where} is damaged: '{error.args[0]}' is missing", _COPY) from error
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise _refusal(f"{where} is damaged: a value is of another type", _COPY) from error
    _expect(document.get("format") == KEY, where, "format")
    _expect(document.get("version") == VERSION, where, "version", "upgrade onnxprune")
    _expect(model == own and result.dense == short["dense"], where, "set of digests")
    _expect(all(stated[name] == short[name] for name in stated), where, "verdict")
    return result


def contradictions(document: Mapping[str, Any]) -> list[str]:
    """Sentences on verdicts of a certificate that do not follow from its own figures."""
    problems = []
    structure, quality = (_status(document.get(name)) for name in ("structure", "quality"))
    rows = document.get("checks")
    checks = [each for each in rows if isinstance(each, Mapping)] if isinstance(rows, list) else []
    own = [each for each in checks if each.get("name") not in ("drop", "finite outputs")]
    if structure == "verified" and not all(each.get("ok") for each in own):
        problems.append("the structure is said to be verified, and a check failed")
    evaluation = _evaluation(document.get("evaluation"))
    measured = isinstance(document.get("evaluation"), Mapping)
    if quality in ("good", "degraded") and not measured:
        problems.append(f"the quality is said to be {quality}, and was not measured")
    if evaluation is not None and quality in _SEVERITY[:2]:
        try:
            status: str = judge(evaluation).status
        except (ArithmeticError, TypeError, ValueError):
            problems.append("its figures are not of their types")
            status = ""
        if status in _SEVERITY and _SEVERITY.index(status) > _SEVERITY.index(quality):
            problems.append(f"the quality is said to be {quality}, and its figures are {status}")
    return problems


def _evaluation(figures: object) -> Evaluation | None:
    """The evaluation that figures of a certificate describe; None where they are too few."""
    if not isinstance(figures, Mapping) or not {*_JUDGED} <= {*figures}:
        return None
    try:
        outputs = {
            str(name): OutputComparison(**{str(key): _number(each) for key, each in row.items()})
            for name, row in figures["outputs"].items()
        }
        judged = {name: _number(figures[name]) for name in _JUDGED}
        return Evaluation(outputs=outputs, pairs=_number(figures.get("pairs")), **judged)
    except (AttributeError, TypeError, ValueError):  # of another version
        return None


def _number(value: Any) -> Any:  # noqa: ANN401  what JSON holds
    """A value as it was before `plain`."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return tuple(map(_number, value)) if isinstance(value, list) else value


def _parse(content: bytes, where: str) -> dict[str, Any]:
    try:
        document = parse_json(content)
    except ValueError as error:
        raise _refusal(f"{where} is damaged: it is not JSON", _COPY) from error
    if not isinstance(document, dict):
        raise _refusal(f"{where} is damaged: it is no object", _COPY)
    return document


def _bytes(place: Path) -> bytes:
    try:
        if place.stat().st_size > _LARGEST:
            raise _refusal(f"{place} is too large for a certificate", _COPY)
        return place.read_bytes()
    except OSError as error:
        raise OnnxpruneError(
            f"{place} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


def _digests(value: object, where: str) -> dict[str, str]:
    right = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    _expect(right, where, "type of value")
    assert isinstance(value, dict)
    return {str(name): str(each) for name, each in value.items()}


def _expect(ok: bool, where: str, what: str, hint: str = _COPY) -> None:  # noqa: FBT001
    if not ok:
        raise _refusal(f"{where} has another {what} than it should", hint)


def _refusal(message: str, hint: str) -> OnnxpruneError:
    return OnnxpruneError(message, hint=hint, exit_code=1)


def dense_hash(model: models.Model) -> str:
    """The content hash of a model as runs take it: packed weights dense."""
    return content_hash(densify(model)[0])

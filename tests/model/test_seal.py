"""The seal of a file is found, and its digest right, whatever state the model is in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import pytest

from onnxprune import OnnxpruneError
from onnxprune.data import zoo
from onnxprune.model import load, write
from onnxprune.model.seal import Digests, document_path, hash_data, is_document, read_seal

MLP = zoo.get("digits_mlp").model


def _sealed(folder: Path, *, external: bool = False) -> Path:
    """A model with a seal that names its digests."""

    def certify(digests: Digests) -> tuple[str, bytes]:
        text = f'{{"graph":"{digests.graph}","document":"none"}}'
        return text, b'{"format": "onnxprune.certificate"}'

    return write(load(MLP), folder / "sealed.onnx", external=external, certify=certify)


def test_the_digest_is_that_of_all_other_bytes(tmp_path: Path) -> None:
    path = _sealed(tmp_path)
    seal = read_seal(path)
    assert seal.text is not None
    assert seal.digests.graph in seal.text
    content = path.read_bytes()
    size = content.rfind(b"onnxprune.certificate")
    assert any(
        hashlib.sha256(content[: size - k]).hexdigest() == seal.digests.graph for k in range(10)
    )
    assert is_document(document_path(path))


def test_a_model_without_a_seal_has_none(tmp_path: Path) -> None:
    path = write(load(MLP), tmp_path / "plain.onnx")
    assert read_seal(path).text is None
    assert read_seal(path).digests.graph == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_seal(tmp_path / "none.onnx").text is None
    (tmp_path / "empty.onnx").touch()
    assert read_seal(tmp_path / "empty.onnx").text is None


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.99])
def test_the_seal_of_a_damaged_model_is_found(share: float, tmp_path: Path) -> None:
    path = _sealed(tmp_path)
    honest = read_seal(path)
    content = bytearray(path.read_bytes())
    at = int(share * (len(content) - 1000))
    content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    seal = read_seal(path)
    assert seal.text == honest.text
    assert seal.digests.graph != honest.digests.graph


def test_bytes_after_the_seal_are_seen(tmp_path: Path) -> None:
    path = _sealed(tmp_path)
    digest = read_seal(path).digests.graph
    with path.open("ab") as file:
        file.write(onnx.ModelProto(producer_name="other").SerializeToString())
    seal = read_seal(path)
    assert seal.text is not None
    assert seal.digests.graph != digest


def test_two_seals_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = _sealed(tmp_path)
    content = path.read_bytes()
    damaged = content.replace(b"onnxprune.certificate", b"onnxprune.certificatf")
    path.write_bytes(damaged)
    with pytest.raises(OnnxpruneError, match="is damaged") as error:
        read_seal(path)
    assert error.value.exit_code == 1
    proto = onnx.load_from_string(content)
    proto.metadata_props.append(proto.metadata_props[-1])
    onnx.save(proto, path)
    with pytest.raises(OnnxpruneError, match="two certificates"):
        read_seal(path)


def test_data_files_are_hashed_by_name(tmp_path: Path) -> None:
    path = _sealed(tmp_path, external=True)
    (data,) = tmp_path.glob("*.data")
    digests = hash_data(path, [data.name, "none.data", f"../{tmp_path.name}/{data.name}"])
    assert digests[data.name] == hashlib.sha256(data.read_bytes()).hexdigest()
    assert [each for each in digests.values() if each] == [digests[data.name]]

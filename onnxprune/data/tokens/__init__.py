"""Tokenizers whose vocabulary is cut with that of a model.

* ``tokenizer``: what is known of a tokenizer, and which ids a smaller one must keep.
* ``merges``: the pieces that byte-pair encoding builds a piece from.
* ``tokenizer_json``, ``lists``, ``model_proto``: one kind of file each.
* ``sidefiles``: the files of transformers that hold ids.
* ``files``: a tokenizer read, and a smaller one written.
* ``encoding``: texts to ids, by the libraries that the files are made for.
"""

from onnxprune.data.tokens.encoding import encode
from onnxprune.data.tokens.files import read_tokenizer, write_tokenizer
from onnxprune.data.tokens.tokenizer import Tokenizer, close_ids

__all__ = ["Tokenizer", "close_ids", "encode", "read_tokenizer", "write_tokenizer"]

"""Language and speech: the networks of transformers that read sequences."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from bench.zoo.inputs import Input
from bench.zoo.network import TORCHSCRIPT, TRANSFORMER, Entry, Network, called

# Opset 23 brings the Attention operator.
_LATEST = (*TRANSFORMER, "dynamo23-dynamic")
# The RotaryEmbedding-23 that torch emits broadcasts its caches; onnxruntime 1.31 takes that for
# batch 1 only.
_ROTARY = (*TRANSFORMER, "dynamo23-fixed")


def _tokens(name: str, vocabulary: int) -> Input:
    return Input(name, "tokens", ("batch", "sequence"), vocabulary)


_MASK = Input("attention_mask", "mask", ("batch", "sequence"))


def bert(attention: str, **config: Any) -> Network:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(attn_implementation=attention, **config))
    inputs = (
        _tokens("input_ids", model.config.vocab_size),
        _MASK,
        Input("token_type_ids", "tokens", ("batch", "sequence"), 2),
    )
    return called(model, inputs, "last_hidden_state", "pooler_output")


def distilbert(**config: Any) -> Network:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    model = DistilBertForSequenceClassification(DistilBertConfig(**config))
    return called(model, (_tokens("input_ids", model.config.vocab_size), _MASK), "logits")


def gpt2(attention: str, **config: Any) -> Network:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(attn_implementation=attention, **config))
    inputs = (_tokens("input_ids", model.config.vocab_size), _MASK)
    return called(model, inputs, "logits", use_cache=False)


def llama(attention: str, **config: Any) -> Network:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(attn_implementation=attention, **config))
    inputs = (_tokens("input_ids", model.config.vocab_size), _MASK)
    return called(model, inputs, "logits", use_cache=False)


def llama_cached(**config: Any) -> Network:
    """One step of generation: past keys and values come in, extended ones go out."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    class Step(nn.Module):
        def __init__(self, whole: LlamaForCausalLM) -> None:
            super().__init__()
            self.whole = whole

        def forward(
            self, ids: torch.Tensor, mask: torch.Tensor, *past: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            cache = DynamicCache(zip(past[::2], past[1::2], strict=True))
            result = self.whole(input_ids=ids, attention_mask=mask, past_key_values=cache)
            present = [t for layer in cache.layers for t in (layer.keys, layer.values)]
            return (result.logits, *present)

    whole = LlamaForCausalLM(LlamaConfig(**config)).eval()
    c = whole.config
    size = c.hidden_size // c.num_attention_heads
    kept = [f"{i}.{kind}" for i in range(c.num_hidden_layers) for kind in ("key", "value")]
    dims = ("batch", c.num_key_value_heads, "past", size)
    inputs = (
        _tokens("input_ids", c.vocab_size),
        Input("attention_mask", "mask", ("batch", "total")),
        *(Input(f"past_key_values.{name}", "features", dims) for name in kept),
    )
    outputs = ("logits", *(f"present.{name}" for name in kept))
    return Network(Step(whole).eval(), inputs, outputs)


def qwen3(**config: Any) -> Network:
    """Grouped queries with a normalisation over each head's queries and keys."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    model = Qwen3ForCausalLM(Qwen3Config(**config))
    inputs = (_tokens("input_ids", model.config.vocab_size), _MASK)
    return called(model, inputs, "logits", use_cache=False)


def t5_encoder(attention: str, **config: Any) -> Network:
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(attn_implementation=attention, **config))
    inputs = (_tokens("input_ids", model.config.vocab_size), _MASK)
    return called(model, inputs, "last_hidden_state")


def t5_decoder(attention: str, **config: Any) -> Network:
    """The decoder with its language-model head: self-attention, cross-attention, feed-forward."""
    from transformers import T5Config, T5ForConditionalGeneration

    class Decoder(nn.Module):
        def __init__(self, whole: T5ForConditionalGeneration) -> None:
            super().__init__()
            self.decoder, self.head = whole.decoder, whole.lm_head

        def forward(self, ids: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            hidden = self.decoder(
                input_ids=ids, encoder_hidden_states=states, use_cache=False
            ).last_hidden_state
            return self.head(hidden)

    settings = T5Config(attn_implementation=attention, **config)
    whole = T5ForConditionalGeneration(settings).eval()
    width = whole.config.d_model
    inputs = (
        _tokens("decoder_input_ids", whole.config.vocab_size),
        Input("encoder_hidden_states", "features", ("batch", "encoder_sequence", width)),
    )
    return Network(Decoder(whole).eval(), inputs, ("logits",))


def whisper_encoder(**config: Any) -> Network:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    model = WhisperEncoder(WhisperConfig(**config))
    frames = 2 * model.config.max_source_positions  # the second convolution has stride 2
    features = Input("input_features", "features", ("batch", model.config.num_mel_bins, frames))
    return called(model, (features,), "last_hidden_state")


_BERT = {
    "vocab_size": 96,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 112,
    "max_position_embeddings": 40,
}
_DISTILBERT = {
    "vocab_size": 96,
    "dim": 48,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 112,
    "max_position_embeddings": 40,
    "num_labels": 5,
}
_GPT2 = {
    "vocab_size": 96,
    "n_positions": 40,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 112,
}
_LLAMA = {
    "vocab_size": 96,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_LLAMA_FULL = {  # the sizes of SmolLM-135M
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
_QWEN3_FULL = {  # the widths of Qwen3-0.6B, 8 of its 28 layers: a file has to stay below 2 GiB
    "vocab_size": 151936,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}
_T5 = {
    "vocab_size": 96,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 112,
    "num_layers": 2,
    "num_heads": 4,
}
_WHISPER = {
    "d_model": 48,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 112,
    "num_mel_bins": 16,
    "max_source_positions": 24,
}
_WHISPER_FULL = {
    "d_model": 384,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "num_mel_bins": 80,
    "max_source_positions": 1500,
}

# An empty full configuration is the published size by default.
ENTRIES: tuple[Entry, ...] = (
    Entry("bert_eager", partial(bert, "eager"), _BERT, {}),
    Entry("bert_sdpa", partial(bert, "sdpa"), _BERT, {}, _LATEST),
    Entry("gpt2_eager", partial(gpt2, "eager"), _GPT2, {}),
    Entry("gpt2_sdpa", partial(gpt2, "sdpa"), _GPT2, {}, _LATEST),
    Entry("llama_eager", partial(llama, "eager"), _LLAMA, _LLAMA_FULL),
    Entry("llama_sdpa", partial(llama, "sdpa"), _LLAMA, _LLAMA_FULL, _ROTARY),
    Entry("llama_cached", llama_cached, _LLAMA, _LLAMA_FULL, TORCHSCRIPT),
    Entry("t5_encoder_eager", partial(t5_encoder, "eager"), _T5, {}),
    Entry("t5_encoder_sdpa", partial(t5_encoder, "sdpa"), _T5, {}, TORCHSCRIPT),
    Entry("t5_decoder_eager", partial(t5_decoder, "eager"), _T5, {}),
    Entry("whisper_encoder", whisper_encoder, _WHISPER, _WHISPER_FULL),
    Entry("distilbert", distilbert, _DISTILBERT, {}),
    Entry("qwen3", qwen3, {**_LLAMA, "head_dim": 8}, _QWEN3_FULL),
)

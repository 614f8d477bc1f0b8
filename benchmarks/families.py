"""Families of transformers as small random models, for benchmarks/coverage.py."""

from __future__ import annotations

from typing import Any

import numpy as np

TOKENS = 16
COMMON = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
    "sep_token_id": 2, "embedding_size": 16,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "class": "EncoderModel"}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 100, "pad_index": 0}
BART = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "part": "encoder",
        "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}  # fmt: skip
# What differs from COMMON, by transformers' model_type. "class": of its model, where AutoModel's is another;
# "part": the encoder's attribute, where the model has a decoder too.
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": 1},
    "bart": BART,
    "bert": {},
    "bert-generation": {},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {"type_vocab_size": 1, "pad_token_id": 1},
    "canine": {"num_hash_buckets": 64, "local_transformer_stride": 8, "upsampling_kernel_size": 4},
    "convbert": {"conv_kernel_size": 5},
    "data2vec-text": {"type_vocab_size": 1, "pad_token_id": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16,
                   "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
                   "type_vocab_size": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {},
    "ernie": {},
    "esm": {"pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary", "token_dropout": False},
    "eurobert": {"num_key_value_heads": 2, "head_dim": 8},
    "flaubert": XLM,
    "fnet": {},
    "funnel": {"class": "Model", "num_hidden_layers": None, "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48,
               "block_sizes": [1, 1]},
    "gte": {},
    "ibert": {"pad_token_id": 1, "type_vocab_size": 1, "quant_mode": False},
    "jina_embeddings_v3": {},
    "layoutlm": {"max_2d_position_embeddings": 64},
    "lilt": {"hidden_size": 48, "max_2d_position_embeddings": 64, "channel_shrink_ratio": 2, "pad_token_id": 1},
    "longformer": {"attention_window": 8, "pad_token_id": 1},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16, "pad_token_id": 1},
    "markuplm": {"max_depth": 4, "xpath_unit_hidden_size": 8, "max_xpath_tag_unit_embeddings": 16,
                 "max_xpath_subs_unit_embeddings": 16, "tag_pad_id": 15, "subs_pad_id": 15},
    "mbart": BART,
    "megatron-bert": {},
    "mobilebert": {"hidden_size": 48, "embedding_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "mpnet": {"pad_token_id": 1},
    "mt5": T5,
    "nomic_bert": {},
    "nystromformer": {},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "roberta-prelayernorm": {"type_vocab_size": 1, "pad_token_id": 1},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20, "pronunciation_embed_dim": 8,
                 "shape_embed_dim": 8},
    "roformer": {},
    "splinter": {},
    "squeezebert": {"embedding_size": 32, "q_groups": 1, "k_groups": 1, "v_groups": 1},
    "t5": T5,
    "umt5": T5,
    "xlm": XLM,
    "xlm-roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta-xl": {"type_vocab_size": 1, "pad_token_id": 1},
    "xmod": {"type_vocab_size": 1, "pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"},
}  # fmt: skip


# Embedders that people run, by architecture: transformers' model_type and its configuration; the vocabulary, of which
# a run looks up a row a token, is small.
SMALL = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536}
EMBEDDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "minilm-l12": ("bert", SMALL),
    "e5-small": ("bert", SMALL),
    "bge-small": ("bert", SMALL),
    "nomic-embed": ("nomic_bert", {}),
    "modernbert-base": ("modernbert", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
                                       "sep_token_id": 2}),
}  # fmt: skip


def embedder(name: str, layers: int | None = None) -> Any:
    """One of EMBEDDERS with random weights: `module(input_ids, attention_mask)` is its last hidden state."""
    import torch
    import transformers

    family, changes = EMBEDDERS[name]
    torch.manual_seed(0)
    changes = changes | {"vocab_size": 1000} | ({"num_hidden_layers": layers} if layers else {})
    config = transformers.AutoConfig.for_model(family, **changes)
    return _first_output(randomise(transformers.AutoModel.from_config(config)))


class Absent(Exception):
    """This form of this family cannot be written; the message says by whom."""


class Encoder:
    """A family's small random model: `module(input_ids, attention_mask)` is its last hidden state (B, T, H)."""

    def __init__(self, family: str) -> None:
        import torch
        import transformers

        changes = {name: value for name, value in (COMMON | FAMILIES[family]).items() if value is not None}
        kind, part = changes.pop("class", None), changes.pop("part", None)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(family, **changes)
        if kind:
            kind = type(config).__name__.replace("Config", kind)
        whole = getattr(transformers, kind)(config) if kind else transformers.AutoModel.from_config(config)
        self.model = randomise(getattr(whole, part) if part else whole)
        self.module, self.is_part = _first_output(self.model), part is not None

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            result: np.ndarray = self.module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return result


def randomise(module: Any) -> Any:
    """Matrices as Xavier would have them, norm weights from U(0.8, 1.2), all other vectors from N(0, 0.1)."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif name.endswith("weight"):
                parameter.uniform_(0.8, 1.2)
            else:
                parameter.normal_(0, 0.1)
    return module.eval()


def _first_output(model: Any) -> Any:
    import torch

    class FirstOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    return FirstOutput().eval()

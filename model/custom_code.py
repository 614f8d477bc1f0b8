"""The code with which `transformers` loads an architecture that it has no class for: our own layers, and a wrapper."""

from __future__ import annotations

import inspect
import re

FILE = "modeling_pocketbert.py"
CLASSES = {
    "AutoModel": "PocketBertModel",
    "AutoModelForMaskedLM": "PocketBertForMaskedLM",
    "AutoModelForPreTraining": "PocketBertForMaskedLM",
    "AutoModelForSequenceClassification": "PocketBertForSequenceClassification",
    "AutoModelForTokenClassification": "PocketBertForTokenClassification",
    "AutoModelForQuestionAnswering": "PocketBertForQuestionAnswering",
}
AUTO_MAP = {name: f"modeling_pocketbert.{of}" for name, of in ({"AutoConfig": "PocketBertConfig"} | CLASSES).items()}
"""What config.json says of it."""

TOP = '''"""Written by PocketBERT, for `AutoModel.from_pretrained(folder, trust_remote_code=True)`."""

from __future__ import annotations

import dataclasses

import transformers


class ModelError(ValueError):
    pass

'''
WRAPPER = """

class PocketBertConfig(transformers.PretrainedConfig):
    model_type = "pocketbert"

    def __init__(self, **values):
        names = [f.name for f in dataclasses.fields(ModelConfig)]
        own = {name: values.pop(name) for name in names if name in values}
        super().__init__(**values)
        for name, value in vars(ModelConfig(**own)).items():
            setattr(self, name, value)

    def core(self):
        return ModelConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(ModelConfig)})


class PocketBertModel(transformers.PreTrainedModel):
    config_class = PocketBertConfig
    base_model_prefix = "pocketbert"
    head_name = "none"

    def __init__(self, config):
        super().__init__(config)
        self.encoder = Encoder(config.core())
        self.head = HEAD_CLASSES[self.head_name](config.core())
        self.post_init()

    def get_input_embeddings(self):
        return self.encoder.embeddings.word

    def forward(self, input_ids, attention_mask=None, token_type_ids=None, return_dict=True, **others):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if not self.config.type_vocab_size:
            token_type_ids = None
        elif token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        hidden = self.encoder(input_ids, attention_mask, token_type_ids)
        outputs = self.head(hidden, self.encoder.embeddings.word.weight)
        named = transformers.utils.ModelOutput(zip(self.head.output_names, outputs))
        return named if return_dict else tuple(outputs)


class PocketBertForMaskedLM(PocketBertModel):
    head_name = "mlm"


class PocketBertForSequenceClassification(PocketBertModel):
    head_name = "sequence-classification"


class PocketBertForTokenClassification(PocketBertModel):
    head_name = "token-classification"


class PocketBertForQuestionAnswering(PocketBertModel):
    head_name = "question-answering"
"""


def custom_code() -> str:
    """One file that needs torch and transformers alone."""
    from . import config, encoder, heads, layers

    parts = [TOP]
    for module in (config, layers, encoder, heads):
        source = inspect.getsource(module).removeprefix(f'"""{module.__doc__}"""')
        source = re.sub(r"^from __future__ .*\n|^from \.\w* import .*\n", "", source, flags=re.MULTILINE)
        parts.append(re.sub(r"^if TYPE_CHECKING:\n(    .*\n)+", "", source, flags=re.MULTILINE).strip() + "\n")
    return "\n\n".join(parts) + WRAPPER

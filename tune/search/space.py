"""What is searched: fields of `ModelConfig` with the values each may take, and what a candidate must keep to.

The papers' rows are points of these spaces: the students' of "mobilebert" (Table 3 of the ACL paper, the right half of
the ICLR paper's Table 1), the teachers' of "ib-bert" (Table 2, the left half). "mobilebert-toy" is "mobilebert" at half
the width and a quarter of the depth, with a vocabulary of 4000, for searches on a CPU within an hour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from model import PRESETS, ModelConfig
from model.presets import IB_BERT, PAPER_MOBILEBERT
from tune.errors import TuneError

if TYPE_CHECKING:
    from optuna import Trial

# A candidate's own words: fields of ModelConfig, and ffn_expansion = intermediate_size / inner_size.
Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Space:
    """choices: the values of each parameter; base: every field that is not searched.

    rows: the papers' architectures, the one that others are compared with first. max_params: of the encoder, as the
    papers count. mha_ffn: bounds of the parameters in attention over those in FFNs; the papers find the best
    quality from 0.4 to 0.6.
    """

    name: str
    base: ModelConfig
    choices: Mapping[str, tuple[Any, ...]]
    rows: Mapping[str, ModelConfig]
    max_params: float
    mha_ffn: tuple[float, float] = (0.0, float("inf"))

    @property
    def reference(self) -> str:
        return next(iter(self.rows))

    def suggest(self, trial: Trial) -> Parameters:
        return {name: trial.suggest_categorical(name, values) for name, values in self.choices.items()}

    def config(self, parameters: Parameters) -> ModelConfig:
        """Raises ModelError where the parameters do not fit together. Whatever is no field is left aside."""
        fields = {name: parameters[name] for name in self.choices}
        inner = fields.get("bottleneck_size", self.base.inner_size)
        return replace(self.base, **{"intermediate_size": fields.pop("ffn_expansion") * inner, **fields})

    def parameters(self, config: ModelConfig) -> Parameters:
        """What `config` comes from. Raises TuneError if it is no point of this space."""
        expansion, rest = divmod(config.intermediate_size, config.inner_size)
        by_name = {name: getattr(config, name, expansion) for name in self.choices}
        outside = [name for name, value in by_name.items() if value not in self.choices[name]]
        if outside or rest or self.config(by_name) != config:
            where = f"{outside[0]} is {by_name[outside[0]]!r}" if outside else "a field differs that is not searched"
            raise TuneError(f"not in the space {self.name}: {where}")
        return by_name


def part_parameters(config: ModelConfig) -> tuple[int, int]:
    """Weights of all attention blocks and of all FFNs, a bottleneck that attention alone reads included."""
    stream, inner = config.hidden_size, config.inner_size
    attention = {
        "stream": 3 * stream * inner,
        "shared-bottleneck": 2 * stream * inner + 2 * inner * inner,
        "bottleneck": 3 * inner * inner,
    }[config.attention_input] + inner * inner
    ffn = config.num_feedforward_networks * 2 * inner * config.intermediate_size
    return config.num_hidden_layers * attention, config.num_hidden_layers * ffn


@dataclass(frozen=True)
class Limit:
    """One bound on a candidate: by how much it is exceeded (0 or less: not at all), and that in words."""

    excess: float
    reason: str


def limits(space: Space, config: ModelConfig) -> list[Limit]:
    """Every bound of the space, cheap to know before anything is built."""
    from model.counting import count, paper_params

    params = paper_params(count(config))
    attention, ffn = part_parameters(config)
    ratio, (low, high) = attention / ffn, space.mha_ffn
    held, most = f"{params / 1e6:.2f}M parameters", f"at most {space.max_params / 1e6:.2f}M allowed"
    return [
        Limit(params / space.max_params - 1, f"{held}, {most}"),
        Limit(max(low - ratio, ratio - high), f"MHA:FFN is {ratio:.2f}, {low:g} to {high:g} allowed"),
    ]


def halved(config: ModelConfig) -> ModelConfig:
    """`config` at half the width and a quarter of the depth, with the vocabulary and positions of a toy."""
    return replace(
        config,
        vocab_size=4000,
        max_position_embeddings=128,
        embedding_size=config.embedding_size // 2,
        num_hidden_layers=config.num_hidden_layers // 4,
        hidden_size=config.hidden_size // 2,
        bottleneck_size=config.inner_size // 2,
        intermediate_size=config.intermediate_size // 2,
        attention_dropout=0.0,
    )


STUDENTS = ("student-128", "student-192", "student-160", "student-96", "mobilebert", "mobilebert-tiny")
TEACHERS = ("teacher-f", *(f"teacher-{letter}" for letter in "abcdeghi"))

MOBILEBERT = Space(
    "mobilebert",
    PAPER_MOBILEBERT,
    MappingProxyType(
        {
            "num_hidden_layers": (12, 18, 24, 30),
            "hidden_size": (256, 384, 512, 640),
            "bottleneck_size": (96, 128, 160, 192),
            "num_attention_heads": (3, 4, 5, 6, 8),
            "num_feedforward_networks": (1, 2, 3, 4, 6, 8),
            "ffn_expansion": (2, 4),
            "normalization": ("no-norm", "layer-norm"),
            "activation": ("relu", "gelu"),
            "attention_input": ("stream", "shared-bottleneck", "bottleneck"),
        }
    ),
    {name: PRESETS[name] for name in STUDENTS},
    max_params=26e6,
    mha_ffn=(0.4, 0.6),
)

SPACES = {
    space.name: space
    for space in (
        MOBILEBERT,
        Space(
            "ib-bert",
            IB_BERT,
            MappingProxyType(
                {
                    "num_hidden_layers": (12, 24),
                    "hidden_size": (256, 384, 512, 768, 1024),
                    "bottleneck_size": (128, 256, 512, 1024),
                    "num_attention_heads": (4, 8, 16),
                    "num_feedforward_networks": (1, 2),
                    "ffn_expansion": (2, 4),
                    "normalization": ("no-norm", "layer-norm"),
                    "activation": ("relu", "gelu"),
                }
            ),
            {name: PRESETS[name] for name in TEACHERS},
            max_params=360e6,
        ),
        replace(
            MOBILEBERT,
            name="mobilebert-toy",
            base=halved(MOBILEBERT.base),
            choices=MappingProxyType(
                {
                    **MOBILEBERT.choices,
                    "num_hidden_layers": (4, 6, 8),
                    "hidden_size": (192, 256),
                    "bottleneck_size": (48, 64, 80, 96),
                }
            ),
            rows={name: halved(PRESETS[name]) for name in STUDENTS},
            max_params=1.75e6,
        ),
    )
}


def find_space(name: str) -> Space:
    if name not in SPACES:
        raise TuneError(f"--space {name}: choose from {', '.join(SPACES)}")
    return SPACES[name]

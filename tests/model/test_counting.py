from dataclasses import replace

import pytest
import torch

import model
from model.counting import Comparison, compare, count, paper_flops, paper_params
from model.heads import empty_model
from model.presets import ALIASES, PAPER, PRESETS, find_preset


@pytest.mark.parametrize("figure", compare(), ids=lambda c: f"{c.preset} {c.figure}")
def test_papers_figure_within_two_percent_or_explained(figure: Comparison) -> None:
    assert figure.difference == pytest.approx(100 * (figure.ours / figure.paper - 1), abs=0.1)
    assert abs(figure.difference) < 30
    assert (len(figure.note) > 40) == (abs(figure.difference) > 2)


def test_every_preset_is_in_a_table() -> None:
    assert PAPER.keys() == PRESETS.keys()
    assert set(ALIASES.values()) <= PRESETS.keys()
    assert find_preset("mobilebert-layernorm-gelu") is PRESETS["mobilebert-without-opt"]


@pytest.mark.parametrize("preset", PRESETS)
def test_count_is_what_the_module_holds(preset: str) -> None:
    with torch.device("meta"):
        encoder = model.Model(PRESETS[preset]).encoder
    assert paper_params(count(PRESETS[preset])) == sum(p.numel() for p in encoder.parameters())


@pytest.mark.parametrize("preset", ["mobilebert", "mobilebert-paper", "ib-bert-large", "tinybert", "distilbert-4l"])
def test_flops_are_those_that_torch_counts(preset: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = PRESETS[preset]
    with torch.device("meta"):
        bert = model.Model(config).eval()
        ids = torch.zeros(1, 96, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bert.encoder(ids, ids, ids if config.type_vocab_size else None)
    assert sum(row.flops for row in count(config, 96)) == counter.get_total_flops()


def test_flops_of_longer_sequences_match_the_iclr_squad_table() -> None:
    """ICLR, Table 4: 384 tokens."""
    for preset, printed in (("bert-base", 71.2e9), ("mobilebert-paper", 18.2e9)):
        config = PRESETS[preset]
        assert paper_flops(count(config, 384), config, 384) == pytest.approx(printed, rel=0.005)


def test_squads_figures_are_of_384_tokens() -> None:
    figures = [figure for figure in compare() if figure.figure == "squad_flops"]
    assert figures
    for figure in figures:
        config = PRESETS[figure.preset]
        assert figure.ours == round(paper_flops(count(config, 384), config, 384) / 1e9, 3)


def test_a_model_larger_than_the_memory_says_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = {"hidden_size": 1 << 14, "embedding_size": 1 << 14, "intermediate_size": 1 << 16, "vocab_size": 1 << 15}
    wide["num_attention_heads"] = 16
    config = replace(PRESETS["bert-base"], num_hidden_layers=8, **wide)
    memory = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 89 << 18}
    monkeypatch.setattr("os.sysconf", memory.get)
    with pytest.raises(model.ModelError, match=r"^90 GiB of weights do not fit 89 GiB of memory$"):
        empty_model(config, "none")
    memory["SC_PHYS_PAGES"] += 1 << 18
    assert empty_model(config, "none").config == config


@pytest.mark.parametrize("preset", PRESETS)
def test_widths_are_as_even_as_in_the_papers(preset: str) -> None:
    config = PRESETS[preset]
    for width in (config.hidden_size, config.inner_size, config.embedding_size, config.intermediate_size):
        assert width % 8 == 0
    assert config.num_attention_heads in (3, 4, 5, 6, 8, 12, 16)
    assert (config.vocab_size, config.max_position_embeddings) == (30522, 512)
    assert config.type_vocab_size == (0 if "distilbert" in preset else 2)


LIMITS = {
    "vocab_size": (1, 16_777_216), "max_position_embeddings": (1, 1_048_576), "trained_positions": (1, 1_048_576),
    "type_vocab_size": (0, 65_536), "embedding_size": (1, 65_536), "num_hidden_layers": (1, 256),
    "hidden_size": (1, 65_536), "bottleneck_size": (1, 65_536), "num_attention_heads": (1, 4096),
    "intermediate_size": (1, 262_144), "num_feedforward_networks": (1, 32), "num_labels": (1, 1_048_576),
    "pad_token_id": (-1, 16_777_216),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_sizes_that_no_encoder_has_are_refused(name: str) -> None:
    least, most = LIMITS[name]
    for value in (least - 1, most + 1, True, 1.0):
        with pytest.raises(
            model.ModelError, match=f"^{name} is {value}: it must be a whole number from {least} to {most}"
        ):
            replace(PRESETS["bert-base"], **{name: value})

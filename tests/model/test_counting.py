import pytest
import torch

import model
from model.counting import Comparison, compare, count, paper_params
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
    from model.counting import paper_flops

    for preset, printed in (("bert-base", 71.2e9), ("mobilebert-paper", 18.2e9)):
        config = PRESETS[preset]
        assert paper_flops(count(config, 384), config, 384) == pytest.approx(printed, rel=0.005)

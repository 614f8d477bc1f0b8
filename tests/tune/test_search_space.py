"""The search spaces hold the papers' tables, and their bounds are the papers'."""

from dataclasses import replace

import pytest

from model import PRESETS, ModelError
from model.counting import count, part_params
from model.presets import PAPER
from tune.errors import TuneError
from tune.search.space import SPACES, find_space, halved, limits, part_parameters

STUDENTS, TEACHERS = ([n for n, f in PAPER.items() if f.table == table] for table in ("ACL 3", "ACL 2"))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_row_is_a_point_of_its_space(space):
    for config in space.rows.values():
        assert space.config(space.parameters(config)) == config


def test_the_spaces_reproduce_both_tables():
    assert all(SPACES["mobilebert"].rows[name] == PRESETS[name] for name in STUDENTS)
    assert all(SPACES["ib-bert"].rows[name] == PRESETS[name] for name in TEACHERS)
    assert all(SPACES["mobilebert-toy"].rows[name] == halved(PRESETS[name]) for name in STUDENTS)


def test_a_toy_is_half_as_wide_and_a_quarter_as_deep():
    toy = SPACES["mobilebert-toy"].rows["mobilebert"]
    assert (toy.num_hidden_layers, toy.hidden_size, toy.inner_size, toy.intermediate_size) == (6, 256, 64, 256)
    assert (toy.vocab_size, toy.max_position_embeddings, toy.embedding_size) == (4000, 128, 64)
    assert toy.attention_dropout == 0


@pytest.mark.parametrize("name", STUDENTS)
def test_attention_and_ffn_parameters_are_the_papers(name):
    attention, ffn = part_parameters(PRESETS[name])
    assert attention / 1e6 == pytest.approx(PAPER[name].mha_params, abs=0.5)
    assert ffn / 1e6 == pytest.approx(PAPER[name].ffn_params, abs=0.75)


def test_a_bottleneck_that_only_attention_reads_counts_as_attention():
    config = PRESETS["mobilebert"]
    biases = 24 * 4 * 128
    shared = 24 * 512 * 128
    assert part_parameters(config)[0] == part_params(count(config), "attention") - biases + shared


@pytest.mark.parametrize("attention_input", SPACES["mobilebert"].choices["attention_input"])
def test_parts_are_those_of_the_counted_layers(attention_input):
    """But for biases; a bottleneck that attention alone reads is counted with it, and with the layer by the model."""
    config = replace(PRESETS["mobilebert"], attention_input=attention_input)
    rows, layers, inner = count(config), config.num_hidden_layers, config.inner_size
    attention, ffn = part_parameters(config)
    own = layers * config.hidden_size * inner if attention_input == "shared-bottleneck" else 0
    assert attention == part_params(rows, "attention") - layers * 4 * inner + own
    biases = layers * config.num_feedforward_networks * (config.intermediate_size + inner)
    assert ffn == part_params(rows, "ffn") - biases


def test_only_the_row_that_the_papers_chose_keeps_to_the_papers_ratio():
    space = SPACES["mobilebert"]
    kept = [n for n, c in space.rows.items() if all(limit.excess <= 0 for limit in limits(space, c))]
    assert kept == ["student-128"]


def test_a_bound_that_is_broken_says_by_how_much():
    space = SPACES["mobilebert"]
    parameters, ratio = limits(space, PRESETS["ib-bert-large"])
    assert parameters.excess > 10
    assert "293" in parameters.reason or "294" in parameters.reason
    assert ratio.excess == pytest.approx(
        0.4 - part_parameters(PRESETS["ib-bert-large"])[0] / part_parameters(PRESETS["ib-bert-large"])[1]
    )


def test_heads_that_do_not_divide_are_refused_by_the_model():
    space = SPACES["mobilebert"]
    parameters = dict(space.parameters(PRESETS["student-128"])) | {"num_attention_heads": 5}
    with pytest.raises(ModelError, match="does not divide"):
        space.config(parameters)


def test_what_is_no_point_of_the_space_is_named():
    with pytest.raises(TuneError, match="hidden_size is 768"):
        SPACES["mobilebert"].parameters(PRESETS["bert-base"])
    with pytest.raises(TuneError, match="choose from mobilebert"):
        find_space("bert")

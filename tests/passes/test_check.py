"""Graphs that hang together, and the name of what does not."""

import pytest

import passes


def broken(build, change):
    b = build()
    model = b.model(b("Relu", b("Add", b.input("x", [2, 4]), b.normal(4))))
    change(model.graph)
    return model


def drop_output(graph):
    graph.output[0].name = "nowhere"


def read_missing(graph):
    graph.node[1].input[0] = "absent"


def make_twice(graph):
    graph.node[1].output[0] = graph.node[0].output[0]
    graph.output[0].name = graph.node[0].output[0]


def make_an_input(graph):
    graph.node[1].output[0] = "x"
    graph.output[0].name = "x"


def cycle(graph):
    graph.node[0].input[1] = graph.node[1].output[0]


def name_alike(graph):
    for node in graph.node:
        node.name = "dense"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_output, "graph output 'nowhere' is made by no node"),
        (read_missing, "reads 'absent'"),
        (make_twice, "exists already"),
        (make_an_input, "exists already"),
        (cycle, "cycle through"),
        (name_alike, "2 nodes have the name 'dense'; give each its own, or none"),
    ],
)
def test_what_does_not_hang_together_is_named(build, change, message):
    with pytest.raises(passes.PassError, match=message) as refused:
        passes.run(broken(build, change), verify=False)
    assert "\n" not in str(refused.value)


def test_an_input_that_is_an_output_is_whole(build):
    b = build()
    x = b.input("x", [2, 4])
    model = b.model(x, b("Relu", x))
    model.graph.output[0].CopyFrom(model.graph.input[0])
    passes.run(model)


def test_of_a_cycle_a_node_in_it_is_named(build):
    """A node that only reads what the cycle makes comes first in the file, and is not to blame."""
    b = build()
    x = b.input("x", [2, 4])
    y = b("Relu", x, name="after")
    z = b("Add", x, x, name="one")
    model = b.model(y, b("Tanh", z, name="two"))
    after, one, two = model.graph.node
    after.input[0], one.input[1] = two.output[0], two.output[0]
    with pytest.raises(passes.PassError, match="cycle through node 'one'"):
        passes.run(model)

"""fuse_gelu: the ways exporters write it, and look-alikes."""

import math

import pytest

import passes


def gelu(b, x, form):
    """0.5 · x · (1 + erf(x/√2)), its factors in three orders; or the tanh approximation."""
    if form.startswith("tanh"):
        cube = b("Pow", x, b.const(3.0)) if form == "tanh_pow" else b("Mul", x, b("Mul", x, x))
        inner = b("Tanh", b("Mul", b.const(math.sqrt(2 / math.pi)), b("Add", x, b("Mul", b.const(0.044715), cube))))
    else:
        inner = b("Erf", b("Div", x, b.const(math.sqrt(2))) if form != "times" else b("Mul", x, b.const(0.5**0.5)))
    plus = b("Add", b.const(1.0), inner)
    if form == "half_last":
        return b("Mul", b("Mul", x, plus), b.const(0.5))
    if form == "half_x":
        return b("Mul", b("Mul", b.const(0.5), x), plus)
    return b("Mul", x, b("Mul", b.const(0.5), plus))


@pytest.mark.parametrize("form", ["half_first", "half_last", "half_x", "times", "tanh_pow", "tanh_mul"])
def test_gelu_is_recognised(build, check, form):
    b = build()
    result, _ = check(b.model(gelu(b, b.input("x", [3, 64]), form)), "fuse_gelu", bound=1e-6)
    assert [node.op_type for node in result.graph.node] == ["Gelu"]


def test_each_gelu_that_an_old_opset_cannot_write_is_counted(build):
    b = build()
    b.opset = 19
    model = b.model(gelu(b, gelu(b, b.input("x", [3, 4]), "times"), "tanh_mul"))
    _, report = passes.run(model, only=["fuse_gelu"])
    (refusal,) = report.passes[0].refusals
    assert (refusal.times, refusal.reason) == (2, "Gelu needs opset 20; export with a newer one")


def test_a_look_alike_does_not_end_the_search(build, check, ops):
    b = build()
    x = b.input("x", [3, 4])
    plus = b("Add", b("Erf", b("Div", x, b.const(math.sqrt(2)))), b.const(1.0))
    result, _ = check(b.model(gelu(b, b("Mul", b("Mul", x, plus), b.const(0.25)), "times")), "fuse_gelu")
    assert ops(result, "Gelu") == 1


def test_gelu_needs_all_its_factors(build, check, ops):
    b = build()
    x = b.input("x", [3, 4])
    plus = b("Add", b("Erf", b("Div", x, b.const(math.sqrt(2)))), b.const(1.0))
    wrong_factor = b("Mul", b("Mul", x, plus), b.const(0.25))
    wrong_root = b("Mul", b("Mul", x, b("Add", b("Erf", b("Div", x, b.const(2.0))), b.const(1.0))), b.const(0.5))
    result, report = check(b.model(wrong_factor, wrong_root), "fuse_gelu")
    assert ops(result, "Gelu") == 0
    assert report.passes[0].refusals


def test_gelu_with_a_value_read_elsewhere_stays(build, check, ops):
    b = build()
    x = b.input("x", [3, 4])
    y = gelu(b, x, "half_first")
    inner = next(node.output[0] for node in b.nodes if node.op_type == "Erf")
    result, _ = check(b.model(y, b("Tanh", inner)), "fuse_gelu")
    assert ops(result, "Gelu") == 0


@pytest.mark.parametrize("wrong", ["factor", "power", "cube of another", "no one", "sum instead of product"])
def test_look_alikes_of_the_tanh_form_stay(build, check, ops, wrong):
    b = build()
    x, z = b.input("x", [3, 4]), b.input("z", [3, 4])
    cube = b("Pow", z if wrong == "cube of another" else x, b.const(2.0 if wrong == "power" else 3.0))
    inner = b("Add", x, b("Mul", b.const(0.05 if wrong == "factor" else 0.044715), cube))
    tanh = b("Tanh", b("Mul", b.const(math.sqrt(2 / math.pi)), inner))
    half = b("Mul", b.const(0.5), b("Add", b.const(0.9 if wrong == "no one" else 1.0), tanh))
    y = b("Sub" if wrong == "sum instead of product" else "Mul", x, half)
    result, _ = check(b.model(b("Identity", y)), "fuse_gelu")
    assert ops(result, "Gelu") == 0

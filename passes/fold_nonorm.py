"""Remove every NoNorm by carrying the stream as x = g ∘ z + c with constant g and c.

NoNorm is γ ∘ h + β, affine; what reads the stream is linear. With x = g ∘ z + c, only z being computed:

    NoNorm        γ ∘ x + β            =  (γ ∘ g) ∘ z + (γ ∘ c + β)             no node left
    residual add  x + f                =  g ∘ (z + f / g) + c                   f's last linear takes 1/g
    linear        x W + b              =  z (diag(g) W) + (b + c W)             W and b are constants
    relu, output… x                    =  g ∘ z + c                             written out where it is needed

Where nothing else reads z, its writers take γ and β themselves and g stays 1. Where a channel of g is 0 or leaves
[1/limit, limit], x/g has no safe float32: g is applied there by one Mul and carried anew from 1.
"""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from passes import absorb, linear
from passes.affine import Affine, Step, match_step
from passes.graph import array, attempt, constant, has_control_flow, last_dim, make, used_once, write_outputs
from passes.options import Options
from passes.report import Outcome, Refusals

LARGEST = 1e30  # of a carried constant; float32 ends at 3.4e38


def fold_nonorm(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    if has_control_flow(model.graph):
        refusals.add("the graph has control flow, which may read any value; run it on a graph without", "graph")
        return Outcome(refusals=refusals.all())
    before, nodes = _multiplies(model.graph), len(model.graph)
    walk: list[_Walk] = []

    def rewrite(graph: ir.Graph) -> None:
        walk.append(_Walk(graph, options.scale_limit, refusals))
        for node in list(graph):
            walk[0].visit(node)
        walk[0].finish()

    if not attempt(model, rewrite, lambda graph: len(graph) < nodes):
        if before:
            refusals.add("carrying scales would leave as many operators; graph left as it was", "graph")
        return Outcome(counts={"norms_folded": 0, "scales_left": before, "restarts": 0}, refusals=refusals.all())
    after = _multiplies(model.graph)
    counts = {"norms_folded": before - after, "scales_left": after, "restarts": walk[0].restarts}
    return Outcome(max(0, before - after), counts, refusals.all())


def _multiplies(graph: ir.Graph) -> int:
    steps = (match_step(node) for node in graph)
    return sum(step is not None and step.scale is not None for step in steps)


class _Walk:
    """One pass over the graph, inputs to outputs; `carried` says what each original value is in terms of new ones."""

    def __init__(self, graph: ir.Graph, limit: float, refusals: Refusals) -> None:
        self.graph = graph
        self.limit = limit
        self.refusals = refusals
        self.restarts = 0
        self.carried: dict[ir.Value, Affine] = {}
        self.written: dict[ir.Value, ir.Value] = {}
        self.once = {value for node in graph for value in node.outputs if used_once(value)}

    def affine(self, value: ir.Value) -> Affine:
        """What `value` is; itself where nothing is known."""
        return self.carried.get(value) or Affine(value, private=value in self.once)

    def visit(self, node: ir.Node) -> None:
        step = match_step(node)
        if step is not None:
            self._take(node, step)
        elif self._is_residual(node):
            self._join(node)
        elif not any(value in self.carried for value in node.inputs):
            return
        elif node.domain not in ("", "ai.onnx"):
            self._write_inputs(node)
        elif (matched := linear.match(node)) and matched.x in self.carried and linear.may_change(matched):
            self._read(matched)
        elif (x := absorb.passed_on(node)) is not None and self._worth_passing(x):
            self._pass_on(node, x)
        else:
            self._write_inputs(node)

    def finish(self) -> None:
        """Write out the graph outputs that are carried, under their names."""
        write_outputs(self.graph, self.carried, self._write)

    def _take(self, node: ir.Node, step: Step) -> None:
        """γ and β join what is carried, or go into the writers of a base that nobody else reads."""
        output = node.outputs[0]
        now = self.affine(step.x)
        after = now.then(step)
        private = now.private
        base, scale, shift = after.base, after.scale, after.shift
        if not (_representable(scale) and _representable(shift)):
            self.refusals.add("the carried constants would leave float32's range", node.name or "")
            self._write_inputs(node)
            return
        if private and scale is not None and absorb.can_scale(base, private=True):
            base, scale = absorb.scale(base, scale, node), None
        elif scale is not None and self._unsafe(scale, node):
            base, scale, private = self._multiply(base, scale, node), None, False
        if private and scale is None and shift is not None and absorb.add_shift(base, shift, private=True):
            shift = None
        self.carried[output] = Affine(base, scale, shift, private and output in self.once)

    def _join(self, node: ir.Node) -> None:
        """A residual add: both operands brought to one scale, their shifts added."""
        operands = [value for value in node.inputs if value is not None]
        first, second = (self.affine(value) for value in operands)
        if all(self._takes_shift(reader) for reader in node.outputs[0].consumers()):
            first, second = _without_bias(first), _without_bias(second)
        scale = first.scale
        if not _same(first.scale, second.scale):
            free = [self._can_rescale(side) for side in (first, second)]
            if all(free):
                target = None
            elif free[1] and first.scale is not None:
                target = first.scale
            elif free[0] and second.scale is not None:
                target = second.scale
            else:
                target = second.scale if not free[1] else first.scale
                self.refusals.add("a residual add joins two streams of different scale", node.name or "")
            first, second = (
                self._rescale(side, target, ok, node) for side, ok in zip((first, second), free, strict=True)
            )
            scale = target
        shifts = [side.shift for side in (first, second) if side.shift is not None]
        node.replace_input_with(0, first.base)
        node.replace_input_with(1, second.base)
        output = node.outputs[0]
        shift = sum(shifts[1:], shifts[0]) if shifts else None
        if scale is not None or shift is not None:
            self.carried[output] = Affine(output, scale, shift, output in self.once)

    def _takes_shift(self, reader: ir.Node) -> bool:
        """Whether a reader folds a carried shift, so that a bias may travel to it."""
        if match_step(reader) is not None or linear.match(reader) is not None:
            return True
        return self._is_residual(reader)

    def _can_rescale(self, side: Affine) -> bool:
        if array(side.base) is not None:
            return True
        return side.private and absorb.can_scale(side.base, private=True)

    def _rescale(self, side: Affine, target: np.ndarray | None, free: bool, node: ir.Node) -> Affine:
        """The same value with scale `target`: by its writers where they can, else by a Mul."""
        if _same(side.scale, target):
            return side
        one = np.ones(1)
        factors = (one if side.scale is None else side.scale) / (one if target is None else target)
        if free:
            return Affine(absorb.scale(side.base, factors, node), target, side.shift)
        return Affine(self._multiply(side.base, factors, node), target, side.shift)

    def _read(self, matched: linear.Linear) -> None:
        """A linear: g goes into W's rows, c W into b, or on as the shift of a product without b."""
        now = self.carried[matched.x]
        product = matched.matrix()
        matched.node.replace_input_with(0, now.base)
        if now.scale is not None:
            matched.set_matrix(now.scale[:, None] * product)
        if now.shift is None:
            return
        if linear.takes_bias(matched):
            matched.set_vector(matched.vector() + now.shift @ product)
        else:
            output = matched.output
            self.carried[output] = Affine(output, None, now.shift @ product, output in self.once)

    def _pass_on(self, node: ir.Node, x: ir.Value) -> None:
        now = self.carried[x]
        for index, value in enumerate(node.inputs):
            if value is not x and value in self.carried:
                node.replace_input_with(index, self._write(value, node))
        node.replace_input_with(0, now.base)
        output = node.outputs[0]
        self.carried[output] = Affine(output, now.scale, now.shift, output in self.once)

    def _worth_passing(self, x: ir.Value) -> bool:
        """A graph output is written out anyway: what follows may as well read that."""
        return x in self.carried and not x.is_graph_output()

    def _write_inputs(self, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value in self.carried:
                node.replace_input_with(index, self._write(value, node))

    def _write(self, value: ir.Value, before: ir.Node) -> ir.Value:
        """x itself, by a Mul and an Add at most; once for all its readers."""
        if value not in self.written:
            now = self.carried[value]
            result = now.base
            if now.scale is not None:
                result = self._multiply(result, now.scale, before)
            if now.shift is not None:
                shift = constant(self.graph, now.shift, "carried.shift")
                result = make("Add", [result, shift], before=before, like=value)
            self.written[value] = result
        return self.written[value]

    def _multiply(self, value: ir.Value, scale: np.ndarray, before: ir.Node) -> ir.Value:
        factors = constant(self.graph, scale, "carried.scale")
        return make("Mul", [value, factors], before=before, like=value)

    def _unsafe(self, scale: np.ndarray, node: ir.Node) -> bool:
        size = np.abs(scale)
        bad = (size < 1 / self.limit) | (size > self.limit) | ~np.isfinite(scale)
        if not bad.any():
            return False
        self.restarts += 1
        kind = "are 0" if not size[bad].any() else f"are 0 or outside 2^±{np.log2(self.limit):.0f}"
        self.refusals.add(f"scales that {kind} are applied by a Mul and carried anew from 1", node.name or "")
        return True

    def _is_residual(self, node: ir.Node) -> bool:
        """Whether the node adds two tensors that both have the channels of the sum along their last axis."""
        if node.op_type != "Add" or node.domain not in ("", "ai.onnx"):
            return False
        size = last_dim(node.outputs[0])
        return size is not None and all(v is not None and last_dim(v) == size for v in node.inputs)


def _representable(values: np.ndarray | None) -> bool:
    """Whether float32 holds the values with room to spare; zeros are fine."""
    return values is None or bool(np.isfinite(values).all() and np.abs(values).max() < LARGEST)


def _without_bias(side: Affine) -> Affine:
    """The same value with its linear's bias carried: a residual add then follows a bare product."""
    matched = linear.match(side.base.producer()) if side.private and side.scale is None else None
    if matched is None or matched.bias is None:
        return side
    shift = matched.vector() if side.shift is None else side.shift + matched.vector()
    matched.node.resize_inputs(2)
    return replace(side, shift=shift)


def _same(first: np.ndarray | None, second: np.ndarray | None) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second)

"""Recognise LayerNormalization in its exported pieces.

    γ (x − μ) / √(σ² + ε) + β,    μ = mean(x),    σ² = mean((x − μ)²)                  as PyTorch exports it
    x·(γ/√(σ² + ε)) + (β − μ·(γ/√(σ² + ε)))                                            as TensorFlow exports it

over the last axis, γ and β constant vectors of its size. The first form is found by onnxscript's rule.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter.pattern import MatchResult, OrValue, RewriteRuleClassBase, RewriteRuleSet
from onnxscript.rewriter.rules.fusion import _layer_norm

from passes.graph import array, constant, is_float, last_dim, scalar
from passes.options import Options
from passes.report import Outcome, Refusals


def fuse_layer_norm(model: ir.Model, options: Options) -> Outcome:
    refusals = Refusals()
    if not any(node.op_type == "Sqrt" for node in model.graph):  # matching is slow on large graphs
        return Outcome()
    for node in model.graph:
        _count_axis_from_the_end(model.graph, node)
    rules = [_Torch.rule(refusals), _TensorFlow.rule(refusals)]
    applied = RewriteRuleSet(rules, commute=True).apply_to_model(model)
    if applied:
        RewriteRuleSet([_Bias.rule()], commute=True).apply_to_model(model)
    RemoveUnusedNodesPass()(model)
    return Outcome(applied, refusals=refusals.all())


def _count_axis_from_the_end(graph: ir.Graph, node: ir.Node) -> None:
    """Write the last axis of a mean as −1, the only form the rules look for."""
    if node.op_type != "ReduceMean" or len(node.inputs) < 2:
        return
    x, axis = node.inputs[0], scalar(node.inputs[1])
    if x is not None and x.shape is not None and axis is not None and axis == len(x.shape) - 1:
        node.replace_input_with(1, constant(graph, np.array([-1]), "last_axis", np.int64))


def _check(x: ir.Value, vector: ir.Value, refusals: Refusals) -> bool:
    """Whether γ or β is what LayerNormalization takes."""
    values = array(vector)
    if is_float(x) and values is not None and values.shape == (last_dim(x),):
        return True
    refusals.add("γ or β is not a constant vector of the last axis' size", x.name or "")
    return False


class _Torch(_layer_norm.LayerNormFusion):
    def __init__(self, refusals: Refusals) -> None:
        super().__init__("layer_norm")
        self.refusals = refusals

    def check(self, context: Any, x: ir.Value, epsilon: ir.Value, scale: ir.Value, **_: Any) -> MatchResult:  # type: ignore[override]
        if not _check(x, scale, self.refusals):
            return MatchResult().fail("γ is not a constant vector")
        return super().check(context, x, epsilon)


class _Bias(_layer_norm.LayerNormBiasFusion):
    def check(self, context: Any, x: ir.Value, bias: ir.Value, normalized: ir.Value, **_: Any) -> MatchResult:  # type: ignore[override]
        node = normalized.producer()
        if node is None or len(node.inputs) > 2 or not _check(x, bias, Refusals()):
            return MatchResult().fail("β is not a constant vector, or there is one already")
        return MatchResult()


class _TensorFlow(RewriteRuleClassBase):
    def __init__(self, refusals: Refusals) -> None:
        super().__init__("layer_norm_tensorflow")
        self.refusals = refusals

    def pattern(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value, epsilon: ir.Value) -> ir.Value:
        mean = op.ReduceMean(x, [-1], keepdims=1)
        deviation = op.Sub(x, mean)
        squared = OrValue([op.Mul(deviation, deviation), op.Pow(deviation, 2)])
        deviation_size = op.Sqrt(op.Add(op.ReduceMean(squared, [-1], keepdims=1), epsilon))
        factor = op.Mul(op.Reciprocal(deviation_size), scale)
        return op.Add(op.Mul(x, factor), op.Sub(bias, op.Mul(mean, factor)))

    def check(  # type: ignore[override]
        self, context: Any, x: ir.Value, scale: ir.Value, bias: ir.Value, epsilon: ir.Value, **_: Any
    ) -> MatchResult:
        result = MatchResult()
        self.epsilon = scalar(epsilon)
        if self.epsilon is None or not (_check(x, scale, self.refusals) and _check(x, bias, self.refusals)):
            return result.fail("ε, γ or β is not constant")
        return result

    def rewrite(self, op: Any, x: ir.Value, scale: ir.Value, bias: ir.Value, **_: Any) -> ir.Value:
        return op.LayerNormalization(x, scale, bias, axis=-1, epsilon=self.epsilon)

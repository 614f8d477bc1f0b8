"""LiteRT with XNNPACK, weights in int8 a channel and activations quantised as they come (`dynamic_wi8_afp32`)."""

from pathlib import Path

from benchmarks.peers import litert

PACKAGES = (*litert.PACKAGES, "ai-edge-quantizer")
prepare = litert.prepare


def convert(source: Path) -> Path:
    from ai_edge_quantizer import quantizer, recipe

    target = source.with_name(f"{source.stem}.int8.tflite")
    made = quantizer.Quantizer(str(litert.convert(source)), recipe.dynamic_wi8_afp32()).quantize()
    made.export_model(str(target), overwrite=True)
    return target

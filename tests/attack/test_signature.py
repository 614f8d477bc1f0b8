"""Who made an artifact: signed manifests; and that what was checked is what is loaded."""

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import compile
from compile import __main__ as command_line
from compile.artifact.manifest import Manifest
from compile.artifact.signature import SIGNATURE, new_key
from compile.errors import CompileError
from compile.running import opening


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """A key's file, its public key, and a stranger's."""
    place = tmp_path_factory.mktemp("keys")
    return place / "mine", [new_key(place / "mine")], [new_key(place / "stranger")]


@pytest.fixture(scope="module")
def signed_once(keys: tuple, tmp_path_factory: pytest.TempPathFactory, tiny: Callable) -> Path:
    place = tmp_path_factory.mktemp("signed")
    onnx.save(tiny(), place / "tiny.onnx")
    options = ["--target", "host", "--seq-len", "4", "--sign", str(keys[0]), "--out", str(place / "out")]
    assert command_line.main([str(place / "tiny.onnx"), *options]) == 0
    return place / "out"


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed_once, tmp_path / "signed"))


def test_trusted_key_opens(signed: Path, keys: tuple) -> None:
    _, mine, strangers = keys
    for trusted in (mine, [*strangers, *mine], (f"{key}\n" for key in mine)):
        with compile.load(signed, trusted_keys=trusted) as library:
            library.run({"x": np.ones((1, 4, 16), np.float32)})
    compile.load(signed).close()


def test_other_keys_do_not(signed: Path, keys: tuple) -> None:
    for trusted in (keys[2], []):
        with pytest.raises(CompileError, match="not signed by any of the trusted keys"):
            compile.load(signed, trusted_keys=trusted)


def test_signature_of_someone_elses_manifest(signed: Path, keys: tuple) -> None:
    """An attacker may write the manifest, seal and all, and keep the signature."""
    manifest = Manifest.read(signed)
    object.__setattr__(manifest, "default_threads", 7)
    manifest.write(signed)
    compile.load(signed).close()
    with pytest.raises(CompileError, match="not signed by any"):
        compile.load(signed, trusted_keys=keys[1])


def test_library_that_was_exchanged(signed: Path, keys: tuple) -> None:
    library = signed / Manifest.read(signed).library
    library.write_bytes(library.read_bytes()[:-1] + b"!")
    with pytest.raises(CompileError, match="damaged"):
        compile.load(signed, trusted_keys=keys[1])


@pytest.mark.parametrize("content", [None, b"", b"AAAA", b"not base64!", bytes(100), b"A" * 5000])
def test_signature_that_is_missing_or_damaged(content: bytes | None, signed: Path, keys: tuple) -> None:
    (signed / SIGNATURE).unlink()
    if content is not None:
        (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(CompileError, match="not signed"):
        compile.load(signed, trusted_keys=keys[1])
    compile.load(signed).close()


@pytest.mark.parametrize("key", ["", "x", "AAAA", base64.b64encode(bytes(33)).decode(), None, 7])
def test_what_is_no_public_key(key: object, signed: Path) -> None:
    with pytest.raises(CompileError, match="no public key"):
        compile.load(signed, trusted_keys=[key])  # type: ignore[list-item]


def test_one_text_is_not_a_list_of_keys(signed: Path, keys: tuple) -> None:
    with pytest.raises(CompileError, match="give a list"):
        compile.load(signed, trusted_keys=keys[1][0])


def test_signed_artifact_is_replaced_and_the_signature_does_not_stay(
    signed: Path, keys: tuple, tiny_file: Path
) -> None:
    compile.build(tiny_file, target="host", seq_len=4, out=signed)
    assert not (signed / SIGNATURE).exists()


def test_openssl_agrees(signed: Path, keys: tuple, tmp_path: Path) -> None:
    """The formats are everybody's: openssl verifies our signature with our key, and makes a key that we take."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    (tmp_path / "signature").write_bytes(base64.b64decode((signed / SIGNATURE).read_bytes()))
    verify = ["openssl", "pkeyutl", "-verify", "-rawin", "-inkey", keys[0], "-in", signed / "manifest.json"]
    subprocess.run([*verify, "-sigfile", tmp_path / "signature"], check=True, timeout=60)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "k"], check=True, timeout=60)
    from compile.artifact.signature import read_key

    assert read_key(tmp_path / "k")


def test_key_is_for_its_owner_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    key = tmp_path / "key"
    assert command_line.main(["--new-key", str(key)]) == 0
    assert capsys.readouterr().out == (tmp_path / "key.pub").read_text()
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert command_line.main(["--new-key", str(key)]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert key.read_bytes() == before


@pytest.mark.parametrize("kind", ["missing", "text", "public", "rsa", "passphrase"])
def test_file_that_is_no_key_is_refused_before_the_build(kind: str, keys: tuple, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    path, form = tmp_path / "key", (Encoding.PEM, PrivateFormat.PKCS8)
    if kind == "text":
        path.write_text("my secret notes")
    if kind == "public":
        path.write_text(keys[1][0])
    if kind == "rsa":
        path.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(*form, NoEncryption()))
    if kind == "passphrase":
        key = ed25519.Ed25519PrivateKey.generate()
        path.write_bytes(key.private_bytes(*form, BestAvailableEncryption(b"secret")))
    with pytest.raises(CompileError, match="--sign") as refusal:
        compile.build("not even there.onnx", target="host", sign=path)
    assert "secret" not in str(refusal.value).replace(str(path), "")


def test_without_the_package_one_line_says_what_to_install(signed: Path, keys: tuple) -> None:
    code = "import sys; sys.modules['cryptography'] = None; import compile; compile.load(sys.argv[1], trusted_keys=[])"
    done = subprocess.run([sys.executable, "-c", code, signed], capture_output=True, text=True, timeout=120)
    assert "pip install 'pocketbert[sign]'" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("how", ["renamed", "rewritten link"])
def test_library_that_is_exchanged_after_it_was_hashed(
    how: str, signed: Path, tiny: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes its name between hashing and loading is not loaded."""
    path = signed / Manifest.read(signed).library
    if how == "rewritten link":
        path.rename(tmp_path / "real.so")
        path.symlink_to(tmp_path / "real.so")
    digest = opening.hashlib.file_digest

    def exchange(*arguments: object) -> object:
        result = digest(*arguments)  # type: ignore[arg-type]
        (tmp_path / "evil").write_bytes(b"not a library")
        os.replace(tmp_path / "evil", path)
        return result

    monkeypatch.setattr(opening.hashlib, "file_digest", exchange)
    with compile.load(signed) as library:
        library.run({"x": np.ones((1, 4, 16), np.float32)})
    monkeypatch.undo()
    with pytest.raises(CompileError, match="damaged"):
        compile.load(signed)


@pytest.mark.parametrize("name", ["libtiny.so", "manifest.json"])
def test_pipe_in_the_place_of_a_file_does_not_hang(name: str, signed: Path) -> None:
    (signed / name).unlink()
    os.mkfifo(signed / name)
    with pytest.raises(CompileError, match=r"damaged|not a file"):
        compile.load(signed)

"""Ed25519 signatures of manifests: who made an artifact, where the seal says only that it is whole.

The file beside the manifest signs it to the last byte, and with it, by their digests, all other files of the artifact.
A private key is a PEM file, as `openssl genpkey -algorithm ed25519` makes one too; a public key is a line of base64.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from compile.errors import CompileError
from pocketbert.reading import read_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.json.sig"


def new_key(path: Path) -> str:
    """Write a new private key to `path`, for its owner's eyes, and its public key to `<path>.pub`; returns the latter.

    Raises CompileError if it cannot be written, or is there already.
    """
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    public = public_key(key)
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        path.with_name(f"{path.name}.pub").write_text(public + "\n")
    except OSError as error:
        raise CompileError(f"--new-key {path}: {error.strerror}; a key is never overwritten") from error
    return public


def read_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file. Raises CompileError if it holds none, or one with a passphrase."""
    _require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise CompileError(f"--sign {path}: {error.strerror}; --new-key makes a key") from error
    except Exception:  # the library's errors are many, and some would show what is in the file
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CompileError(f"--sign {path}: not an Ed25519 private key without a passphrase; --new-key makes one")
    return key


def public_key(key: Ed25519PrivateKey) -> str:
    """What `trusted_keys` takes."""
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(folder: Path, manifest: bytes, key: Ed25519PrivateKey) -> None:
    """Write the signature of an artifact's manifest into its folder."""
    (folder / SIGNATURE).write_bytes(base64.b64encode(key.sign(manifest)) + b"\n")


def require_signature(folder: Path, manifest: bytes, trusted_keys: Iterable[str]) -> None:
    """Raises CompileError unless the owner of one of `trusted_keys` signed these bytes of a manifest."""
    _require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if isinstance(trusted_keys, str):
        raise CompileError("trusted_keys is a text: give a list of public keys")
    try:
        signature = base64.b64decode(read_text(folder / SIGNATURE, CompileError, 1024).strip(), validate=True)
    except (CompileError, ValueError) as error:
        raise CompileError(f"{folder} is not signed ({SIGNATURE} is missing or damaged): build with --sign") from error
    for text in trusted_keys:
        try:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(text.strip(), validate=True))
        except (ValueError, AttributeError, TypeError) as error:
            raise CompileError(f"trusted key {text!r} is no public key: give the line of a .pub file") from error
        try:
            return key.verify(signature, manifest)
        except InvalidSignature:
            continue
    raise CompileError(f"{folder} is not signed by any of the trusted keys, or was changed since")


def _require_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise CompileError("signatures need the package cryptography: pip install 'pocketbert[sign]'") from error

"""Text from models and users on its way into another language: through one of these functions, or not at all."""

from __future__ import annotations

import hashlib
import html
import re
import string
import unicodedata

from compile.errors import CompileError

# No quote, backslash, newline, `*` (ends a comment), `?` (trigraphs) nor `@` (templates).
_PLAIN_IN_C = frozenset((string.ascii_letters + string.digits + " _.,:;-+=/()[]{}<>#").encode())
COMMENT_LENGTH = 120
NAME_LENGTH = 64
# A model's header must not be found in place of libc's, nor its functions (`sem_open`) be libc's.
_OF_LIBC = re.compile(
    r"aio|alloca|assert|byteswap|complex|ctype|dirent|dlfcn|elf|endian|err|errno|error|fcntl|features|fenv|float|"
    r"fnmatch|ftw|getopt|glob|grp|iconv|ifaddrs|inttypes|iso646|jni|langinfo|libgen|limits|link|locale|malloc|math|"
    r"memory|mq|mqueue|netdb|poll|pthread|pty|pwd|regex|resolv|sched|search|sem|semaphore|setjmp|shm|signal|spawn|"
    r"stdalign|stdarg|stdatomic|stdbit|stdbool|stdckdint|stddef|stdint|stdio|stdlib|stdnoreturn|string|strings|"
    r"syslog|tar|termios|tgmath|threads|time|uchar|ucontext|unistd|unwind|utime|utmp|values|wait|wchar|wctype|"
    r"wordexp"
)


def c_string(text: str) -> str:
    """A C string literal, quotes and all, of the text's UTF-8: what is not plain becomes `\\ooo`.

    Three octal digits end by themselves, whatever follows. Raises CompileError for a NUL, which ends a C string.
    """
    if "\0" in text:
        raise CompileError(f"the name {text!r} holds a NUL character, and a name in a library ends at one: rename it")
    return f'"{_c_text(text)}"'


def c_comment(text: str) -> str:
    """The text, or its beginning, for any C comment: in the form of `c_string`, so the comment goes on after it."""
    return _c_text(text[:COMMENT_LENGTH]) + ("..." if len(text) > COMMENT_LENGTH else "")


def _c_text(text: str) -> str:
    return "".join(chr(byte) if byte in _PLAIN_IN_C else f"\\{byte:03o}" for byte in text.encode(errors="replace"))


def identifier(name: str) -> str:
    """`name`, which is about to be a word of C, assembler, a linker script, CMake, Java or Maven.

    Raises CompileError where it is not a C identifier: such words are made by us, as by `library_name`.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise CompileError(f"{name!r} is no identifier: use letters, digits and underscores")
    return name


def library_name(text: str) -> str:
    """A C identifier from a model's name: it prefixes every public symbol and names the header.

    Where letters had to go, a digest of the text keeps names apart that would coincide.
    """
    name = re.sub(r"\W+", "_", text.lower(), flags=re.ASCII).strip("_") or "model"
    if name[0].isdigit() or _OF_LIBC.fullmatch(name) or re.match(r"pocketbert|pb(_|$)", name):
        name = f"m_{name}"
    if not text.isascii() or len(name) > NAME_LENGTH:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
        name = f"{name[: NAME_LENGTH - 9]}_{digest}"
    return name


def xml(text: str) -> str:
    """Text or an attribute's value in HTML and XML. What would not be seen, or turns text around, becomes `\\u…`."""
    return html.escape("".join(_visible(character) for character in text))


def _visible(character: str) -> str:
    """Control, format (as bidirectional overrides), surrogate and unassigned characters by their numbers."""
    invisible = unicodedata.category(character)[0] == "C" and character not in "\n\t"
    return character.encode("unicode_escape").decode() if invisible else character


def fill(template: str, facts: dict[str, str]) -> str:
    """The template with `@NAME@` replaced by facts["NAME"]; what is filled in is not looked at again."""
    return re.sub(r"@([A-Z]+)@", lambda match: facts[match[1]], template)

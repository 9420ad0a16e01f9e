"""The file `checkpoint`, in which TensorFlow names the latest checkpoint of a folder.

It is a text proto of CheckpointState (tensorflow/python/training/checkpoint_state.proto), which
TensorFlow reads with protobuf's text_format.Merge. So a string may be in single or double quotes,
in several pieces, and escaped as in C; fields may share a line; `#` begins a comment.
"""

import re

STATE = "checkpoint"
"""The file's name."""

LARGEST = 1 << 20
"""Bytes that are read of it; Keras and Estimator write one line for each checkpoint."""

_PATH = b"model_checkpoint_path"
_STRING = rb'"(?:[^"\\\n]|\\[^\n])*"|' + rb"'(?:[^'\\\n]|\\[^\n])*'"
_TOKEN = rb"(?:\s|#[^\n]*)*(?:(" + _STRING + rb")|([A-Za-z_]\w*)|([-+.\w]+)|([:;,\[\]])|\Z)"
_ESCAPE = rb"""\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})
              |([abfnrtv\\'"?]))"""
_LETTERS = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def state_file(name: str) -> bytes:
    """The file for a folder with one checkpoint, as Saver writes it with `save_relative_paths`.

    Args:
        name: the checkpoint's name in the folder, of letters, digits and - _ . only.
    """
    return f'{_PATH.decode()}: "{name}"\nall_{_PATH.decode()}s: "{name}"\n'.encode()


def latest_path(text: bytes) -> str:
    """The path of the latest checkpoint; "" if the text does not name one, or is no text proto.

    A backslash that begins no escape stands for itself, as in a Windows path that somebody wrote by
    hand. Bytes that are not UTF-8 become surrogates, as in any path.
    """
    token, escape = re.compile(_TOKEN), re.compile(_ESCAPE, re.VERBOSE)
    field, path, at = b"", b"", 0
    is_piece = False  # whether the last token was a string, which the next one continues
    while at < len(text):
        found = token.match(text, at)
        if found is None:
            return ""
        at = found.end()
        string, name, _, _ = found.groups()
        if name and not string:
            field = name
        elif string and field == _PATH:  # of several, the last counts
            path = (path if is_piece else b"") + escape.sub(_unescaped, string[1:-1])
        is_piece = bool(string)
    return path.decode("utf-8", "surrogateescape")


def _unescaped(escape: re.Match[bytes]) -> bytes:
    octal, hexadecimal, short, long, letter = escape.groups()
    if octal:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    if letter:
        return bytes([_LETTERS.get(letter[0], letter[0])])
    code = int(short or long, 16)
    return chr(code).encode("utf-8", "surrogatepass") if code < 0x110000 else escape[0]

"""A fingerprint of the code that draws and measures: recipes replay with the code they were made by."""

from __future__ import annotations

import functools
import hashlib
import io
import tokenize
from pathlib import Path

import pasta

# what a lesion's voxels and report follow from; comments and docstrings do not count
_DRAWING = (
    *("composition", "drawing", "guards", "host", "loop", "noise", "parenchymal", "placement"),
    *("planning", "priors", "recipe", "recipes", "stones", "tables", "templates", "walls"),
)
_MEASURING = ("meter", "neighbourhood", "trunk")
_LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}


@functools.cache
def code_fingerprint() -> str:
    """Hash the code that a plan's recipes and reports follow from, 16 hex digits."""
    here, core = Path(__file__).parent, Path(pasta.__file__).parent
    paths = [here / f"{name}.py" for name in _DRAWING] + [core / f"{n}.py" for n in _MEASURING]
    digest = hashlib.sha256()
    for path in paths:
        digest.update(stripped(path.read_text(encoding="utf-8")).encode())
    return digest.hexdigest()[:16]


def stripped(source: str) -> str:
    r"""Source without comments, docstrings and layout, the same on every Python.

    >>> stripped('def f():  # why\n    "what"\n    return 1\n')
    'deff():return1'
    """
    kept = []
    starts = True  # of a statement: a string there is a docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _LAYOUT:
            starts = True
            continue
        if token.type == tokenize.STRING and starts:
            continue
        starts = False
        kept.append(token.string)
    return "".join(kept)

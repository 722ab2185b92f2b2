"""The few colours of the panel; each also comes with a word, so nobody needs to tell colours apart."""

GOOD, WARNING, ERROR, AI, PERSON = "#2e7d32", "#b26a00", "#c62828", "#6a3fb5", "#2e7d32"
QUIET = "#777777"
KINDS = {"good": GOOD, "warning": WARNING, "error": ERROR}


def coloured(text: str, colour: str, bold: bool = False) -> str:
    """Write rich text in a colour."""
    inner = f"<b>{text}</b>" if bold else text
    return f"<span style='color:{colour}'>{inner}</span>"


def escaped(text: str) -> str:
    """Make a text safe inside rich text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""A report as PDF, without patient identity; every page says that it is research output."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer

from pasta import RESEARCH_USE_ONLY, __version__
from pasta.dicom.source import model_text

if TYPE_CHECKING:
    from pasta.dicom.statements import Statements

_BODY = ParagraphStyle("body", fontName="Helvetica", fontSize=9.5, leading=13)
_DETAIL = ParagraphStyle("detail", _BODY, leftIndent=6 * mm)
_HEADING = ParagraphStyle("heading", _BODY, fontName="Helvetica-Bold", spaceBefore=5, spaceAfter=1)
_MARGIN = 20 * mm


def report_pdf(statements: Statements) -> bytes:
    """Set a report's text as PDF (A4).

    Text outside Latin-1 is written with question marks: the fonts that every PDF reader has hold no more.

    Returns:
        The file; the same report gives the same bytes.
    """
    buffer = io.BytesIO()
    document = SimpleDocTemplate(
        buffer,
        pagesize=A4,
        leftMargin=_MARGIN,
        rightMargin=_MARGIN,
        topMargin=25 * mm,
        bottomMargin=25 * mm,
        invariant=1,
        title="Structured CT report",
        author="PASTA-AID",
        subject=RESEARCH_USE_ONLY,
    )
    by = f"Reader {statements.reader}" if statements.reader else "AI, not reviewed"
    name, serial = model_text(statements.models)
    foot = f"{by}. pasta-aid {__version__}; {name} (weights {serial})."

    def frame(canvas: Any, page: Any) -> None:
        canvas.saveState()
        canvas.setFont("Helvetica-Bold", 8)
        canvas.drawCentredString(A4[0] / 2, A4[1] - 14 * mm, RESEARCH_USE_ONLY)
        canvas.setFont("Helvetica", 7)
        canvas.drawString(_MARGIN, 14 * mm, _latin(foot)[:130])
        canvas.drawRightString(A4[0] - _MARGIN, 14 * mm, f"page {page.page}")
        canvas.restoreState()

    document.build(_flow(statements.text), onFirstPage=frame, onLaterPages=frame)
    return buffer.getvalue()


def _flow(text: str) -> list[Any]:
    flow: list[Any] = []
    for line in text.splitlines():
        if not line.strip():
            flow.append(Spacer(1, 2 * mm))
        elif line.isupper() or line.startswith("STRUCTURED CT REPORT"):
            flow.append(Paragraph(escape(_latin(line)), _HEADING))
        else:
            style = _DETAIL if line.startswith("   ") else _BODY
            flow.append(Paragraph(escape(_latin(line.strip())), style))
    return flow


def _latin(text: str) -> str:
    return text.encode("latin-1", "replace").decode("latin-1")

"""The report of an export: one document, and what is rendered from it.

The document is report.json as a Python mapping (see :mod:`exporter.report.schema`). Everything that can be read
about an export is rendered from it alone, so a report can be rendered again years later.
"""

from exporter.report.document import check_document, read_report, write_report
from exporter.report.html import render_html
from exporter.report.markdown import render_markdown
from exporter.report.schema import SCHEMA, Document, Level
from exporter.report.table import render_table

__all__ = [
    "SCHEMA",
    "Document",
    "Level",
    "check_document",
    "read_report",
    "render_html",
    "render_markdown",
    "render_table",
    "write_report",
]

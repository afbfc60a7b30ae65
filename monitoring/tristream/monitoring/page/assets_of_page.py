"""The files that a browser gets: package data in ``assets/``, and Plotly from its installed package.

The page loads them from its own server; the report carries them inside. Nothing comes from outside,
and both forbid it by a Content-Security-Policy.
"""

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files
from string import Template

SHARED_SCRIPTS = (
    "dom.js", "format.js", "theme.js", "axis.js", "export.js", "charts.js", "curves.js", "evaluation.js", "facts.js",
    "boxes.js", "gallery.js",
)  # fmt: skip
"""Scripts that the page and the report share, in the order in which they are run."""

PAGE_SCRIPTS = (
    *SHARED_SCRIPTS, "status.js", "sources.js", "verdicts.js", "rollouts.js", "compare.js", "why.js", "page.js",
)  # fmt: skip
REPORT_SCRIPTS = (*SHARED_SCRIPTS, "report.js")
STYLES = ("base.css", "sections.css", "gallery.css", "rollouts.css", "why.css")
PLOTLY = "plotly.min.js"

MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Inline styles are Plotly's."""


@cache
def read_asset(name: str) -> str:
    """Text of an asset, such as ``page.html``; ``plotly.min.js`` comes from the package ``plotly``."""
    if name == PLOTLY:
        from plotly.offline import get_plotlyjs

        return str(get_plotlyjs())
    return (files("tristream.monitoring.page") / "assets" / name).read_text(encoding="utf-8")


def page_html(title: str) -> str:
    """The live page; nothing of it waits for Plotly but the drawings."""
    tags = [f'<link rel="stylesheet" href="/assets/{name}">' for name in STYLES]
    tags += [f'<script defer src="/assets/{name}"></script>' for name in PAGE_SCRIPTS]
    tags += [f'<script async src="/assets/{PLOTLY}"></script>']
    return Template(read_asset("page.html")).substitute(title=html.escape(title), files="\n".join(tags))


def report_html(title: str, data: str) -> str:
    """The report: one file with everything inside; ``data`` is JSON."""
    scripts = [read_asset(name) for name in (PLOTLY, *REPORT_SCRIPTS)]
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash_source, scripts))}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(read_asset("report.html")).substitute(
        title=html.escape(title),
        policy=policy,
        styles="".join(f"<style>\n{read_asset(name)}</style>\n" for name in STYLES),
        # "<" cannot close the element or open a comment; in JSON it only occurs inside strings.
        data=data.replace("<", "\\u003c"),
        scripts="".join(f"<script>{script}</script>\n" for script in scripts),
    )


def _hash_source(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"

"""The documentation site: Markdown pages, API entries from docstrings, notebooks of examples/ with their outputs."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import speechrnn  # noqa: E402

project = "speechrnn"
release = speechrnn.__version__
author = "speechrnn contributors"
copyright = "2026, speechrnn contributors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "code"
nitpick_ignore_regex = [("py:.*", r"(?!speechrnn\.\w+$).*")]  # public names must lead somewhere, others need not

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_merge_streams = True
nb_execution_mode = "off"  # they are executed below, in the folder that they are written for

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Samples": "Samples", "Array": "Array", "NDArray": "NDArray"}
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = f"speechrnn {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"


def execute_notebooks() -> None:
    """Run each notebook from the folder it lies in, and keep it with its outputs for the site."""
    executed = ROOT / "docs" / "notebooks"
    executed.mkdir(exist_ok=True)
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}).execute()
        nbformat.write(notebook, executed / path.name)


def readable(text: str | None) -> str | None:
    """A part of a signature as it would be written: a default that msgspec makes anew, and the alias of a type."""
    return text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text.replace("<factory>", "{}"))


def keep_units(app: object, document: nodes.document) -> None:
    """A number and its unit stay on one line."""
    for text in list(document.findall(nodes.Text)):
        joined = re.sub(r"(?<=\d) (?=(%|ms|s|h|dB|Hz|kHz|kB|MB|cores?)\b|%)", "\N{NO-BREAK SPACE}", text.astext())
        if not isinstance(text.parent, nodes.literal | nodes.literal_block):
            text.parent.replace(text, nodes.Text(joined))


def setup(app: Any) -> None:
    """Prepare what Sphinx reads."""
    app.connect("autodoc-process-signature", lambda *event: (readable(event[-2]), readable(event[-1])))
    app.connect("doctree-read", keep_units)
    execute_notebooks()

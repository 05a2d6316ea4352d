"""mkdocs hook: a reference page for each public Python package, filled from docstrings by mkdocstrings."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PLACE = "python"
PACKAGES = (
    "clipsr",
    "clipsr_gateway",
    "clipsr_serving",
    "clipsr.local",
    "clipsr.batch",
    "clipsr_serving.backends",
    "clipsr_serving.images",
    "clipsr_training.clip",
    "clipsr_training.data",
    "clipsr_training.evaluation",
    "clipsr_training.liif",
    "clipsr_export",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for package in PACKAGES:
        files.append(File.generated(config, f"{PLACE}/{package}.md", content=f"# {package}\n\n::: {package}\n"))
    return files

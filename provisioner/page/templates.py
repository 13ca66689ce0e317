"""The HTML of the pages: Jinja2 with everything escaped, and an error for a name that is not there."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined

from provisioner.page.words import gib, iso, moment, number, seconds_words, span_words


class Templates:
    """The templates, read once."""

    def __init__(self, asset: Callable[[str], str], version: str, fleet: str) -> None:
        """Read them.

        Args:
            asset: says where a file of ours stands.
            version: our own.
            fleet: the name of the fleet file.
        """
        texts = {
            file.name: file.read_text(encoding="utf-8")
            for file in files("provisioner.page").joinpath("html").iterdir()
            if file.name.endswith(".html")
        }
        self._environment = Environment(
            loader=DictLoader(texts),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            span=span_words, iso=iso, moment=moment, gib=gib, number=number, brief_seconds=seconds_words
        )
        self._environment.globals.update(asset=asset, version=version, fleet_name=fleet)

    def show(self, name: str, **values: object) -> str:
        """Fill a template in."""
        return self._environment.get_template(name).render(values)

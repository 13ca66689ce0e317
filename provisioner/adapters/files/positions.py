"""YAML that remembers on which line everything stands, and refuses a key written twice."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import yaml

from provisioner.domain.cross_checks import Place, Problem

_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads numbers as people write them.

    YAML 1.1 also takes ``0777`` for 511, and a PCI address such as ``0000:01:00.0`` for 60.0, a number to the base of
    sixty: what then is told to be wrong stands nowhere in the file.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - the parser's own word for them
        first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class YamlBroken(Exception):
    """The text is no YAML; carries the line (from 1) and the parser's own words."""

    def __init__(self, line: int, words: str) -> None:
        super().__init__(words)
        self.line = line
        self.words = words


@dataclass(slots=True)
class Document:
    """A parsed file with the line of every entry, and the entries that were written twice."""

    value: object
    lines: dict[Place, int] = field(default_factory=dict)
    doubles: list[Problem] = field(default_factory=list)

    def line_of(self, place: Place) -> int:
        """Return the line of an entry, or of the nearest entry around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def read_document(text: str) -> Document:
    """Parse one YAML document. Raises YamlBroken."""
    loader = Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(None)
        value = loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlBroken(mark.line + 1 if mark else 1, error.problem or str(error)) from error
    except yaml.YAMLError as error:
        raise YamlBroken(1, str(error).splitlines()[0]) from error
    except (ValueError, TypeError, RecursionError) as error:
        # A date like 2026-99-99 or a key that is a list: the parser's constructors raise these bare.
        raise YamlBroken(1, str(error) or type(error).__name__) from error
    finally:
        loader.dispose()
    document = Document(value)
    _note(root, (), document, depth=0)
    return document


def _note(node: yaml.Node, place: Place, document: Document, *, depth: int) -> None:
    document.lines.setdefault(place, node.start_mark.line + 1)
    # An alias can make the graph circular; nothing in a fleet file is nested this deep.
    if depth > 20:
        return
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            here = (*place, name)
            document.lines.setdefault(here, key.start_mark.line + 1)
            if name in seen:
                line = key.start_mark.line + 1
                document.doubles.append(
                    Problem(here, f'the key "{name}" a second time, on line {line}', "each key once")
                )
            seen.add(name)
            _note(value, here, document, depth=depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for at, item in enumerate(node.value):
            _note(item, (*place, at), document, depth=depth + 1)

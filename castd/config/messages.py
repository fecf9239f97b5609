"""
What pydantic finds wrong, said as an operator would say it.

Bounds, known keys and examples come from the JSON schema of the model, so that the models of plugins from elsewhere are
spoken of like our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

_Schema: TypeAlias = Mapping[str, Any]
_Route: TypeAlias = tuple[str | int, ...]

#: What a value of each JSON type is called.
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list, [a, b]",
    "object": "a mapping, {key: value}",
}
#: What pydantic calls a bound, and what the JSON schema does.
_CONSTRAINTS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
#: Keys that are listed where none is near to the one that was written.
_FEW = 12
#: Characters of a wrong value that are repeated.
_LONGEST = 60


def complaints(error: ValidationError, model: type[BaseModel], value: Any) -> Iterator[tuple[_Route, str]]:
    """
    -> the keys that lead to each fault, and what is wrong there.

    @param value: what was validated: text, mappings and lists.
    """
    schema = schemaOf(model)
    for fault in error.errors(include_url=False):
        route = _inside(fault["loc"], value, fault["type"])
        yield route, _sentence(fault, _at(schema, route, schema), _at(schema, route[:-1], schema))


def schemaOf(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model as it is written in a service file; empty where a field's type has none."""
    try:
        return model.model_json_schema(by_alias=True)
    except PydanticUserError:
        return {}


def meant(written: str, known: Iterable[str]) -> str:
    """C{: did you mean 'x'?}, or what is known, if that is not too much; else nothing."""
    names = sorted(known)
    near = get_close_matches(written.lower().replace("_", "-"), names, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(names)}" if 0 < len(names) <= _FEW else ""


def shown(value: Any) -> str:
    """A wrong value, short."""
    if value is None:
        return "nothing"
    kind = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else ""
    text = kind or (f"{value:g}" if isinstance(value, float) else str(value))
    return repr(text) if not text.strip() else text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _inside(location: _Route, value: Any, kind: str) -> _Route:
    """The part of pydantic's location that is in the file: not the names of a union's branches."""
    route: list[str | int] = []
    for key in location:
        present = key in value if isinstance(value, dict) else isinstance(value, list) and isinstance(key, int)
        if present:
            value = value[key]
        if present or (kind == "missing" and key == location[-1]):
            route.append(key)
    return tuple(route)


def _at(schema: _Schema, route: _Route, root: _Schema) -> _Schema:
    """What the schema says of this place, as far as it says anything."""
    for step in _branches(schema, root):
        if not route:
            if step.get("type") != "null":
                return step
            continue
        key, rest = route[0], route[1:]
        within = step.get("items") if isinstance(key, int) else step.get("properties", {}).get(key)
        within = within if isinstance(within, dict) else step.get("additionalProperties")
        if isinstance(within, dict):
            return _at(within, rest, root)
    return {}


def _branches(schema: _Schema, root: _Schema) -> Iterator[_Schema]:
    """The schema itself or, where it only points elsewhere or offers a choice, what that leads to."""
    if "$ref" in schema:
        yield from _branches(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {}), root)
    elif "anyOf" in schema or "oneOf" in schema:
        for each in schema.get("anyOf") or schema["oneOf"]:
            yield from _branches(each, root)
    else:
        yield schema


def _sentence(fault: ErrorDetails, here: _Schema, above: _Schema) -> str:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + meant(str(fault["loc"][-1]), above.get("properties", {}))
    if kind == "missing":
        about = here.get("description") or _wanted(here)
        return f"is missing ({about})" if about else "is missing"
    if "expected" in context:
        return f"{shown(value)} is not {context['expected']}"
    if kind in ("value_error", "assertion_error") and not _misplaced(value, here):
        return str(context.get("error", fault["msg"]))
    if broken := context.keys() & _CONSTRAINTS.keys():
        told = _bounds(here) or _bounds({_CONSTRAINTS[each]: context[each] for each in broken})
        return f"{shown(value)} is not {told}"
    wanted = _wanted(here)
    if value is None and wanted:
        return f"has no value: it should be {wanted}"
    mistyped = kind.endswith(("_type", "_parsing")) or _misplaced(value, here) or not context
    return f"{shown(value)} is not {wanted}" if wanted and mistyped else _plain(fault)


def _plain(fault: ErrorDetails) -> str:
    text = fault["msg"].removeprefix("Input ")
    return f"{shown(fault['input'])} {text}" if text != fault["msg"] else text


def _misplaced(value: Any, here: _Schema) -> bool:
    """A mapping or a list stands where the type is a scalar."""
    types = here.get("type", [])
    types = [types] if isinstance(types, str) else types
    return (
        bool(types)
        and isinstance(value, dict | list)
        and ("object" if isinstance(value, dict) else "array") not in types
    )


def _bounds(schema: _Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"between {least:g} and {most:g}"
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    return " and ".join(f"{word} {schema[key]:g}" for key, word in words.items() if key in schema)


def _wanted(schema: _Schema) -> str:
    """What should stand there."""
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum', [schema.get('const')])))}"
    examples = f", such as {schema['examples'][0]}" if schema.get("examples") else ""
    if "format" in schema:
        return f"{schema['format']}{examples}"
    kinds = schema.get("type", [])
    return " or ".join(_WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)) + examples

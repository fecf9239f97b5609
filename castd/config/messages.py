"""
Turns the validation errors of pydantic into messages for an operator.

Bounds, known keys and examples come from the JSON schema of the model, so that the models of all plugins get the same
messages as castd's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from castd import units
from castd.config.yaml import Route, Value
from castd.options import WrongEntries

#: A JSON schema, or a part of one.
Schema: TypeAlias = dict[str, Any]

#: The name of each JSON type in a message.
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "text",
    "array": "a list, [a, b]",
    "object": "a mapping, {key: value}",
}
#: The names of each bound: pydantic's, and that of the JSON schema.
_CONSTRAINTS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
#: What writes an amount, by the format of its schema.
_UNITS: dict[str, Callable[[float], str]] = {
    "duration": units.showDuration,
    "size": units.showSize,
    "rate": units.showRate,
    "frequency": units.showFrequency,
}
#: The most known keys that are listed where none resembles the key in the file.
_MAX_LISTED = 12
#: The most characters of a wrong value that a message repeats.
_MAX_SHOWN = 60


def faultsOf(error: ValidationError, model: type[BaseModel], value: Value) -> Iterator[tuple[Route, str]]:
    """
    Return the route to each fault, and a message that says what is wrong.

    @param value: the value that was validated.
    """
    schema = schemaOf(model)
    for fault in error.errors(include_url=False):
        route = _routeInFile(fault["loc"], value, fault["type"])
        wrong = fault.get("ctx", {}).get("error")
        if isinstance(wrong, WrongEntries):
            yield from (((*route, key), text) for key, text in wrong.entries)
            continue
        above = _schemaAt(schema, route[:-1], schema)
        yield route, _message(fault, _schemaAt(schema, route, schema), above, _valueAt(value, route))


@lru_cache(64)
def schemaOf(model: type[BaseModel]) -> Schema:
    """
    Return the JSON schema of a model as it is written in a service file; empty if a field's type has none.

    It is kept, and not to be changed: it takes milliseconds to make, and a file may have thousands of wrong rules.
    """
    try:
        return model.model_json_schema(by_alias=True)
    except PydanticUserError:
        return {}


def suggestion(written: str, known: Iterable[str]) -> str:
    """Return a hint such as C{: did you mean 'x'?}; else the list of known keys if it is short; else C{""}."""
    names = sorted(known)
    if hint := _blankHint(written, names):
        return hint
    near = get_close_matches(written.lower().replace("_", "-"), names, n=1, cutoff=0.6)
    if near:
        return f": did you mean {near[0]}?"
    return f": known are {', '.join(names)}" if 0 < len(names) <= _MAX_LISTED else ""


def _blankHint(written: str, names: Iterable[str]) -> str:
    """Return a hint about a blank that is missing behind a colon, or is none for YAML; C{""}: no blank is wrong."""
    unusual = next((each for each in written if each.isspace() and each not in " \t\r\n"), None)
    if unusual is not None:
        return f": it has a blank that YAML takes for a letter (U+{ord(unusual):04X}): write a plain one"
    key, colon, value = written.partition(":")
    return f": a blank is missing: write '{key}: {value}'" if colon and value and key in names else ""


def showValue(value: object) -> str:
    """Write a wrong value for a message, cut short if it is long."""
    if value is None:
        return "nothing"
    kind = "a mapping" if isinstance(value, dict) else "a list" if isinstance(value, list | tuple) else ""
    text = kind or (f"{value:g}" if isinstance(value, float) else str(value))
    return repr(text) if not text.strip() else text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _routeInFile(location: Route, value: Value, kind: str) -> Route:
    """Return the part of pydantic's location that is a route in the file, without the names of a union's branches."""
    route: list[str | int] = []
    for key in location:
        if isinstance(value, dict) and key in value:
            value = value[str(key)]
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        elif kind != "missing" or key != location[-1]:
            continue
        route.append(key)
    return tuple(route)


def _schemaAt(schema: Schema, route: Route, root: Schema) -> Schema:
    """Return the schema of the value at this route; empty if the schema does not describe it."""
    for branch in _branches(schema, root):
        if not route:
            if branch.get("type") != "null":
                return branch
            continue
        key, rest = route[0], route[1:]
        within = branch.get("items") if isinstance(key, int) else branch.get("properties", {}).get(key)
        within = within if isinstance(within, dict) else branch.get("additionalProperties")
        if isinstance(within, dict):
            return _schemaAt(within, rest, root)
    return {}


def _branches(schema: Schema, root: Schema) -> Iterator[Schema]:
    """Return the schema itself; for a reference or a choice, the schemas that it leads to."""
    if "$ref" in schema:
        yield from _branches(root.get("$defs", {}).get(schema["$ref"].rpartition("/")[2], {}), root)
    elif "anyOf" in schema or "oneOf" in schema:
        for each in schema.get("anyOf") or schema["oneOf"]:
            yield from _branches(each, root)
    else:
        yield schema


def _valueAt(value: Value, route: Route) -> Value:
    """Return the value at this route; L{None}: there is none."""
    for key in route:
        if isinstance(value, dict):
            value = value.get(str(key))
        elif isinstance(value, list) and isinstance(key, int) and key < len(value):
            value = value[key]
        else:
            return None
    return value


def _message(fault: ErrorDetails, here: Schema, above: Schema, written: Value) -> str:
    """
    Write what is wrong with a value.

    @param here: the schema of the value.
    @param above: the schema of the mapping or list around the value.
    @param written: the value as the file has it, where C{fault} may have what was read from it.
    """
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key" + suggestion(str(fault["loc"][-1]), above.get("properties", {}))
    if kind == "missing":
        about = here.get("description") or _expected(here)
        return f"is missing ({about})" if about else "is missing"
    if "expected" in context:
        return f"{showValue(value)} is not {context['expected']}"
    if kind in ("value_error", "assertion_error") and not _isContainerForScalar(value, here):
        return str(context.get("error", fault["msg"]))
    if broken := context.keys() & _CONSTRAINTS.keys():
        # The schema of an amount with a unit has no bounds.
        told = {_CONSTRAINTS[each]: context[each] for each in broken} | {"format": here.get("format")}
        bounds = _showBounds(here) or _showBounds(told)
        return f"{showValue(value if written is None else written)} is not {bounds}"
    expected = _expected(here)
    if value is None and expected:
        return f"has no value: it should be {expected}"
    mistyped = kind.endswith(("_type", "_parsing")) or _isContainerForScalar(value, here) or not context
    return f"{showValue(value)} is not {expected}" if expected and mistyped else _ownMessage(fault)


def _ownMessage(fault: ErrorDetails) -> str:
    """Return pydantic's own message, with the value in it."""
    text = fault["msg"].removeprefix("Input ")
    return f"{showValue(fault['input'])} {text}" if text != fault["msg"] else text


def _isContainerForScalar(value: object, here: Schema) -> bool:
    """Return whether a mapping or a list stands where the type is a scalar."""
    types = here.get("type", [])
    types = [types] if isinstance(types, str) else types
    return (
        bool(types)
        and isinstance(value, dict | list)
        and ("object" if isinstance(value, dict) else "array") not in types
    )


def _showBounds(schema: Schema) -> str:
    """Write the bounds of a number."""
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f"between {showBound(least, schema)} and {showBound(most, schema)}"
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    return " and ".join(f"{word} {showBound(schema[key], schema)}" for key, word in words.items() if key in schema)


def showBound(bound: float, schema: Schema) -> str:
    """Write a bound of a number as a service file would have it, by the unit of its schema."""
    show = _UNITS.get(schema.get("format") or "")
    if show is not None and bound:
        return show(bound)
    return str(int(bound)) if float(bound).is_integer() else f"{bound:g}"


def _expected(schema: Schema) -> str:
    """Write what the value should be, by its schema."""
    if "enum" in schema or "const" in schema:
        return f"one of {', '.join(map(str, schema.get('enum', [schema.get('const')])))}"
    examples = f", such as {schema['examples'][0]}" if schema.get("examples") else ""
    if "format" in schema:
        return f"{schema['format']}{examples}"
    kinds = schema.get("type", [])
    return " or ".join(_WORDS.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)) + examples

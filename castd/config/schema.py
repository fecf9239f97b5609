"""
Describes all options by their models: for C{castd plugins}, for the reference in C{docs/} and for editors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import yaml
from pydantic import BaseModel

from castd.config.config import (
    SCHEMA,
    ControlOptions,
    HistoryOptions,
    Kind,
    Kinds,
    LoggingOptions,
    MetricsOptions,
    RecorderOptions,
)
from castd.config.messages import Schema, schemaOf, showBound
from castd.machines.options import MachinesOptions
from castd.options import Limits
from castd.profiles.options import ProfilesOptions


class Row(NamedTuple):
    """
    One option in a table of options.

    @ivar key: the key in the service file; for an option within another, such as C{rewrite[].from}.
    @ivar kind: the values that are allowed, in few words.
    @ivar default: the default as a service file has it; C{required}: there is none.
    """

    key: str
    kind: str
    default: str
    description: str


#: The sections of the service file that are one model each, in the order of the file.
SECTIONS: dict[str, type[BaseModel]] = {
    "limits": Limits,
    "logging": LoggingOptions,
    "metrics": MetricsOptions,
    "control": ControlOptions,
    "history": HistoryOptions,
    "machines": MachinesOptions,
    "profiles": ProfilesOptions,
    "recorder": RecorderOptions,
}


def rows(model: type[BaseModel]) -> Iterator[Row]:
    """Return a row for each option of a model, and for each option of models within it."""
    schema = schemaOf(model)
    yield from _rows(schema, schema, "")


def _rows(schema: Schema, root: Schema, prefix: str) -> Iterator[Row]:
    required = schema.get("required", ())
    for key, each in schema.get("properties", {}).items():
        default = "required" if key in required else showValue(each.get("default"))
        yield Row(prefix + key, _kind(each, root), default, each.get("description", ""))
        within, brackets = _within(each, root)
        yield from _rows(within, root, f"{prefix}{key}{brackets}.")


def _within(schema: Schema, root: Schema) -> tuple[Schema, str]:
    """Return the model of the values of a field, and the end of the key: C{[]} for a list."""
    if "$ref" in schema:
        return root["$defs"][schema["$ref"].rpartition("/")[2]], ""
    if isinstance(schema.get("items"), dict):
        return _within(schema["items"], root)[0], "[]"
    if isinstance(schema.get("additionalProperties"), dict):
        return _within(schema["additionalProperties"], root)[0], ".*"
    return {}, ""


def showValue(value: object) -> str:
    """Write a value as it would stand in the service file."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {showValue(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(showValue, value)) + "]"
    words: dict[object, str] = {None: "null", "": '""'}
    if isinstance(value, bool) or value in words:
        return str(value).lower() if isinstance(value, bool) else words[value]
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    text = str(value)
    # Quoted where it would be read as something else, or as more than one.
    isText = not isinstance(value, str) or (yaml.safe_load(text) == text and not set(text) & set(",[]{}"))
    return text if isText else json.dumps(text, ensure_ascii=False)


def _kind(schema: Schema, root: Schema) -> str:
    """Write the values that are allowed, in few words."""
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(kind for kind in (_kind(each, root) for each in choices) if kind != "null")
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema.get("enum", [schema.get("const")])))
    if "format" in schema:
        return str(schema["format"])
    if "$ref" in schema:
        return "mapping"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_plural(_kind(schema.get('items', {}), root))}"
    if kind == "object":
        return f"name: {_kind(schema.get('additionalProperties') or {}, root)}"
    words = {"integer": "number", "string": "text", "boolean": "true or false"}
    return words.get(str(kind), str(kind)) + _bounds(schema)


def _plural(word: str) -> str:
    return word if word.endswith(("s", "text")) or " " in word else f"{word}s"


def _bounds(schema: Schema) -> str:
    """Write the bounds of a number, to stand behind its type."""
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        return f", {showBound(least, schema)} to {showBound(most, schema)}"
    if least is not None:
        return f", from {showBound(least, schema)}"
    return "" if most is None else f", up to {showBound(most, schema)}"


def serviceFileSchema(kinds: Kinds) -> Schema:
    """
    Make the JSON schema of the service file, for editors that complete and check it while it is typed.

    A schema cannot express all that castd checks: unique addresses, networks without host bits, files that exist.
    """
    definitions: Schema = {}

    def define(name: str, model: type[BaseModel], **more: object) -> Schema:
        schema = model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}.{{model}}")
        inner = schema.pop("$defs", {})
        definitions.update({f"{name}.{key}": each for key, each in inner.items()})
        schema["properties"] = {**more, **schema.get("properties", {})}
        definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def oneOf(section: str, makers: Mapping[str, Kind]) -> Schema:
        each = [
            {"type": "object", "properties": {kind: define(f"{section}.{kind}", maker.options)}, "required": [kind]}
            | {"additionalProperties": False}
            for kind, maker in makers.items()
        ]
        return {"type": "array", "items": {"oneOf": each}}

    named = {
        kind: define(f"transports.{kind}", maker.options, use={"const": kind})
        for kind, maker in kinds.transports.items()
    }
    used = [{"allOf": [each, {"required": ["use"]}]} for each in named.values()]
    sections = {name: {"anyOf": [define(name, model), {"type": "null"}]} for name, model in SECTIONS.items()}
    properties = {
        "castd": {"description": "the schema of this file", "enum": [int(SCHEMA), SCHEMA]},
        "content": oneOf("content", kinds.content),
        "uploads": oneOf("uploads", kinds.uploads),
        "access": {"type": "array", "items": define("access", kinds.access)},
        **sections,
        "transports": {
            "type": "object",
            "minProperties": 1,
            "properties": {kind: {"anyOf": [each, {"type": "null"}, *used]} for kind, each in named.items()},
            "additionalProperties": {"anyOf": used},
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "castd service file",
        "type": "object",
        "properties": properties,
        "required": ["castd", "transports"],
        "additionalProperties": False,
        "$defs": definitions,
    }

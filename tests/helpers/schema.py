"""The JSON Schema of portfree's output, and a check against it."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator


@cache
def validator(kind: str) -> Draft202012Validator:
    """*kind*: ``report`` or ``run``. Unlike for users, a field that is not described is wrong."""
    text = (resources.files("portfree") / "schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    Draft202012Validator.check_schema(schema)
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
    del schema["oneOf"]
    return Draft202012Validator(schema | {"$ref": f"#/$defs/{kind}"})


def check(output: str, kind: str = "report") -> Any:  # noqa: ANN401 - as json.loads
    """The object, once it is known to be as the schema describes it."""
    found = json.loads(output)
    validator(kind).validate(found)
    return found

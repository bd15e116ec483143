"""The form of an answer: a JSON schema that holds the model to it, and the reading of what came.

A small model left to itself answers in prose. With the schema as `response_format`, llama.cpp lets
it write only what fits, and larger providers keep to it too; what arrives is checked all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from seedbed.crds.signature import FieldType, Signature, SignatureField
from seedbed.runtime.agents.errors import AnswerMalformedError

Json = dict[str, Any]

_CHARACTERS_PER_TOKEN = 2
_LONGEST_BOUND = 1000
"""Characters beyond which a text is not bounded: llama.cpp refuses long repetitions in a grammar."""
_MOST_ITEMS = 16
_SCALARS: Mapping[str, Json] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "dict": {"type": "object"},
}


def schema(outputs: tuple[SignatureField, ...], max_tokens: int) -> Json:
    """The JSON schema of these outputs.

    Texts are bounded so that a model that repeats itself still closes the object before
    `max_tokens` cuts it off; where there is room for long texts there is no bound.
    """
    texts = sum(_is_text(each.type) for each in outputs)
    bound = max_tokens * _CHARACTERS_PER_TOKEN // max(texts, 1)
    return {
        "type": "object",
        "properties": {each.name: _schema_of(each.type, bound) for each in outputs},
        "required": [each.name for each in outputs],
        "additionalProperties": False,
    }


def _is_text(form: FieldType) -> bool:
    return _is_text(form.item) if form.item is not None else form.name == "str"


def _schema_of(form: FieldType, bound: int) -> Json:
    if form.item is not None:
        short = bound <= _LONGEST_BOUND
        items = _schema_of(form.item, bound // _MOST_ITEMS if short else bound)
        return {"type": "array", "items": items} | ({"maxItems": _MOST_ITEMS} if short else {})
    if form.choices:
        return {"type": "string", "enum": list(form.choices)}
    if form.name == "str":
        return {"type": "string"} | ({"maxLength": bound} if bound <= _LONGEST_BOUND else {})
    return dict(_SCALARS[form.name])


def read(text: str, signature: Signature, *, cut_off: bool) -> Json:
    """The outputs that an answer gives, in the signature's order.

    Args:
        text: the model's answer.
        signature: what it has to fit.
        cut_off: whether the model was stopped at its longest answer.

    Raises:
        AnswerMalformedError: naming the first output that does not fit.
    """
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        why = "was cut off at spec.model.maxTokens" if cut_off else "is no JSON"
        raise AnswerMalformedError("answer", f"{why}: {_shortened(text)}") from error
    if not isinstance(found, dict):
        raise AnswerMalformedError("answer", f"is no JSON object: {_shortened(text)}")
    for problem in signature.output_problems(found, "answer"):
        raise AnswerMalformedError(problem.field.removeprefix("answer."), problem.expected)
    return {each.name: found[each.name] for each in signature.outputs}


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")  # noqa: PLR2004 - one line


def described(field: SignatureField) -> str:
    """An output as the prompt shows it to the model.

    Texts stand there by their name: a small model that reads `text` answers `text`.
    """
    return f'"{field.name}": {_described(field.type, field.name)}'


def _described(form: FieldType, name: str) -> str:
    if form.item is not None:
        return f"[{_described(form.item, name)}, ...]"
    if form.choices:
        return " or ".join(f'"{choice}"' for choice in form.choices)
    if form.name == "str":
        return f'"<{name}>"'
    return {"int": "<whole number>", "float": "<number>", "bool": "true or false"}.get(
        form.name, "{...}"
    )

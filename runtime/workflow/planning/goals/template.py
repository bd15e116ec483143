"""Takes goals of a known domain apart by rules: no model, the same tree each time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from seedbed.crds.errors import InvalidError
from seedbed.crds.goal import GoalRule, GoalTemplate
from seedbed.runtime.workflow.planning.goals.planner import Asked, Part

_PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_MOST_PLACES = 2
_LONGEST = 500
_RESERVED = frozenset({"n", "each", "level"})


class TemplatePlanner:
    """Rules, compiled.

    Args:
        template: the rules.

    Raises:
        InvalidError: where a form or a text names something that is not there.
    """

    costs_calls = False

    def __init__(self, template: GoalTemplate) -> None:
        self._rules = [
            (_form(rule, at), rule, frozenset(_PLACE.findall(rule.goal)) | _RESERVED)
            for at, rule in enumerate(template.rules)
        ]
        for at, (_, rule, known) in enumerate(self._rules):
            for place, part in enumerate(rule.into):
                unknown = set(_PLACE.findall(part.text)) - known
                if unknown:
                    field = f"rules[{at}].into[{place}].text"
                    raise InvalidError(field, f"nothing is known of `{{{min(unknown)}}}`")

    def __str__(self) -> str:
        return f"template of {len(self._rules)} rules"

    def knows(self, asked: Asked) -> bool:
        """Whether a rule takes the goal apart."""
        return self._rule(asked) is not None

    async def apart(self, goals: Sequence[Asked], room: int) -> Sequence[Sequence[Part]]:
        """See `Planner`."""
        found: list[list[Part]] = []
        for asked in goals:
            parts: list[Part] = []
            for part in self._parts(asked):
                if len(parts) > room:
                    break  # too many in any case: whoever asked says so
                parts.append(part)
            found.append(parts)
        return found

    def _rule(self, asked: Asked) -> tuple[GoalRule, Mapping[str, str]] | None:
        for form, rule, _ in self._rules:
            if asked.level < rule.max_level and (match := form.fullmatch(asked.text)):
                return rule, match.groupdict()
        return None

    def _parts(self, asked: Asked) -> Iterator[Part]:
        found = self._rule(asked)
        if found is None:
            return
        rule, names = found
        for sub in rule.into:
            for each in sub.each or ("",):
                for n in range(1, sub.count + 1):
                    told = {**names, "n": str(n), "each": each, "level": str(asked.level + 1)}
                    yield Part(-1, _PLACE.sub(lambda at: told[at[1]], sub.text)[:_LONGEST])  # noqa: B023  # used at once


def read_template(path: Path) -> GoalTemplate:
    """A template from a YAML file.

    Raises:
        InvalidError: naming the file and the first field that is wrong.
    """
    try:
        found = yaml.safe_load(path.read_text())
        return GoalTemplate.model_validate(found)
    except (OSError, yaml.YAMLError) as error:
        raise InvalidError(str(path), str(error)) from error
    except ValidationError as error:
        raise InvalidError(str(path), first_of(error)) from error


def first_of(error: ValidationError) -> str:
    """The first thing that is wrong, with its field."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _form(rule: GoalRule, at: int) -> re.Pattern[str]:
    places = _PLACE.findall(rule.goal)
    field = f"rules[{at}].goal"
    # More places could make the search for a match take very long.
    if len(places) > _MOST_PLACES or len(set(places)) < len(places):
        raise InvalidError(field, f"takes at most {_MOST_PLACES} names, each of them once")
    if reserved := _RESERVED & set(places):
        raise InvalidError(field, f"`{min(reserved)}` has a meaning already")
    parts = _PLACE.split(rule.goal)
    pattern = "".join(
        f"(?P<{part}>.+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts)
    )
    return re.compile(pattern, re.DOTALL)

"""Takes goals of a known domain apart by rules: no model, the same tree each time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from seedbed.crds.errors import InvalidError
from seedbed.crds.goal import PLACE, GoalRule, GoalTemplate, problems_of
from seedbed.runtime.workflow.planning.goals.planner import Asked, Part

_LONGEST = 500


class TemplatePlanner:
    """Rules, compiled.

    Args:
        template: the rules.

    Raises:
        InvalidError: where a form or a text names something that is not there.
    """

    costs_calls = False

    def __init__(self, template: GoalTemplate) -> None:
        for problem in problems_of(template.rules, "rules"):
            raise problem
        self._rules = [(_form(rule), rule) for rule in template.rules]

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
        for form, rule in self._rules:
            if asked.level < rule.max_level and (match := form.fullmatch(asked.text)):
                return rule, match.groupdict()
        return None

    def _parts(self, asked: Asked) -> Iterator[Part]:
        found = self._rule(asked)
        if found is None:
            return
        rule, names = found
        for sub in rule.into:
            after = sub.after  # of the first of them: those behind it belong to its stage
            for each in sub.each or ("",):
                for n in range(1, sub.count + 1):
                    told = {**names, "n": str(n), "each": each, "level": str(asked.level + 1)}
                    text = PLACE.sub(lambda at: told[at[1]], sub.text)  # noqa: B023  # used at once
                    yield Part(-1, text[:_LONGEST], after=after)
                    after = False


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


def _form(rule: GoalRule) -> re.Pattern[str]:
    parts = PLACE.split(rule.goal)
    pattern = "".join(
        f"(?P<{part}>.+?)" if place % 2 else re.escape(part) for place, part in enumerate(parts)
    )
    return re.compile(pattern, re.DOTALL)

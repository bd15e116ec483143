"""What pydantic finds wrong is told with the field as the user knows it, and without pydantic's own words."""

from __future__ import annotations

from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, ValidationError, model_validator

from seedbed.crds.invalid import invalid


def even(value: int) -> int:
    if value % 2:
        raise ValueError("must be even")
    return value


class Farm(BaseModel):
    cows: list[Annotated[int, AfterValidator(even)]]

    @model_validator(mode="after")
    def _has_cows(self) -> Farm:
        if not self.cows:
            raise ValueError("needs a cow")
        return self


@pytest.mark.parametrize(
    ("given", "within", "whole", "message"),
    [
        ('{"cows": [2, 3]}', ("spec",), "body", "spec.cows.1: must be even"),
        ('{"cows": [2, 3]}', (), "body", "cows.1: must be even"),
        ('{"cows": []}', (), "body", "body: needs a cow"),
        ('{"cows": []}', ("spec",), "body", "spec: needs a cow"),
        ("{}", (), "farm", "cows: Field required"),
        ("[]", (), "farm", "farm: Input should be an object"),
    ],
)
def test_the_first_thing_is_told(
    given: str, within: tuple[str, ...], whole: str, message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Farm.model_validate_json(given)
    assert invalid(caught.value, *within, whole=whole).message == message

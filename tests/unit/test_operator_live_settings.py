"""Live settings as the operator knows them: own writes are no news, all else is."""

from __future__ import annotations

import pytest

from seedbed.controllers.plan import Key
from seedbed.crds.addresses import SETTING_PREFIXES
from seedbed.crds.errors import UnavailableError
from seedbed.operator.live_settings import OWNERS, LiveSettings, owner_of_setting

NAME = "flags/team/brief"
FLAG = Key("FeatureFlag", "team", "brief")


def test_an_own_write_counts_at_once_and_its_echo_is_no_news() -> None:
    news: list[Key] = []
    settings = LiveSettings(news.append)
    with settings.writing(NAME, b"1"):
        settings.told(NAME, b"1")
    assert settings.of([NAME]) == {NAME: b"1"}
    with settings.writing(NAME, b"2"):
        pass
    settings.told(NAME, b"2")
    with settings.writing(NAME, None):
        pass
    settings.told(NAME, None)
    assert settings.of([NAME]) == {}
    assert news == []


def test_what_is_told_late_or_was_done_by_others_is_a_reason_to_look() -> None:
    news: list[Key] = []
    settings = LiveSettings(news.append)
    settings.load({NAME: b"1"})
    with settings.writing(NAME, b"2"):
        pass
    settings.told(NAME, b"1")
    assert (settings.of([NAME]), news) == ({NAME: b"1"}, [FLAG])
    settings.told(NAME, None)
    assert (settings.of([NAME]), news) == ({}, [FLAG, FLAG])


@pytest.mark.parametrize("value", [b"2", None])
def test_after_a_write_that_failed_the_setting_is_neither_right_nor_absent(
    value: bytes | None,
) -> None:
    settings = LiveSettings(lambda _: None)

    def write() -> None:
        with settings.writing(NAME, value):
            settings.told(NAME, value)
            raise UnavailableError("no answer")

    with pytest.raises(UnavailableError):
        write()
    assert settings.of([NAME])[NAME] not in (b"2", None)
    assert settings.owned() == [(NAME, FLAG)]


def test_every_kind_of_setting_has_an_owner() -> None:
    assert {f"{kind}/" for kind in OWNERS} == set(SETTING_PREFIXES)
    assert owner_of_setting("templates/team/audit") == Key("Workflow", "team", "audit")

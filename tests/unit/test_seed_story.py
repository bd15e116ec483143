"""The training story, shortened: a broken network is repaired by seeds, and the run can be repeated."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import pytest
import torch

from seedbed.examples.seeds import digits
from seedbed.examples.seeds.picture import drawn
from seedbed.examples.seeds.recover import Story, recover
from seedbed.runtime.seeds.stages import EXTENDED, Stage


@pytest.fixture(scope="module")
def story() -> Story:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return recover("rotated", epochs=45)
    finally:
        torch.set_num_threads(threads)


def test_half_of_the_lost_accuracy_comes_back_with_few_new_parameters(story: Story) -> None:
    assert story.clean > 0.9
    assert story.broken < 0.3
    assert story.recovered >= 0.5
    assert 0 < story.added < 0.05
    assert Stage.FOSSILISED in story.stages[-1]


@pytest.mark.req("ESP-11")
def test_every_move_of_the_run_is_in_the_table_and_explained(story: Story) -> None:
    for decision in story.decisions:
        assert decision.target in EXTENDED[decision.source]
        assert decision.reason
        assert decision.facts
    kept = [one for one in story.decisions if one.target is Stage.FOSSILISED]
    assert len(kept) == sum(stage == Stage.FOSSILISED for stage in story.stages[-1])
    assert all(one.facts["gain"] >= 0.001 for one in kept)


def test_the_picture_shows_each_seed(story: Story) -> None:
    picture = ET.fromstring(drawn(story.held_out, story.stages, story.clean, story.shift))
    rectangles = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(rectangles) > len(story.stages[0])
    named = {text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")}
    assert {Stage(stage).label for epoch in story.stages for stage in epoch} <= named


def test_the_three_parts_of_the_data_share_nothing() -> None:
    found = digits.digits()
    parts = [found.train, found.held_out, found.test]
    assert sum(len(part.digits) for part in parts) == 1797
    rows = [{tuple(row) for row in part.pictures.tolist()} for part in parts]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_the_same_number_gives_the_same_story() -> None:
    first, second = (recover("moved", epochs=6, chance=3) for _ in range(2))
    assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)

"""Embeddings without a key: the image's own model behind the service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import openai
import pytest

from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, provider


@asynccontextmanager
async def client(fake: FakeProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    chat = {"name": "chat", "provider": "openai", "apiBase": fake.url, "model": "x"}
    entries = (ModelEntry.model_validate(chat), ModelEntry(name="words", provider="minilm"))
    models = Models(models=entries, default="chat")
    async with (
        serving(models, "127.0.0.1", 0) as port,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0
        ) as found,
    ):
        yield found


@pytest.mark.req("DSX-15")
def test_texts_that_mean_the_same_are_near_and_chats_go_elsewhere() -> None:
    async def body() -> None:
        async with provider() as fake, client(fake) as ask:
            texts = ["How do I reset my password?", "I forgot my password.", "Bananas are ripe."]
            found = await ask.embeddings.create(model="words", input=texts)
            one, other, far = (np.array(each.embedding) for each in found.data)
            assert len(one) == 384
            assert one @ one == pytest.approx(1, abs=1e-4)
            assert one @ other > 0.5
            assert one @ far < 0.3
            assert found.usage.prompt_tokens > 15
            listed = await ask.embeddings.create(
                model="words", input=texts[:1], encoding_format="float"
            )
            assert listed.data[0].embedding == pytest.approx(one.tolist(), abs=1e-3)
            by_default = await ask.embeddings.create(model="default", input="anything")
            assert by_default.model == "words", "the default model has no embeddings"
            with pytest.raises(openai.BadRequestError):
                await ask.embeddings.create(model="words", input="x", dimensions=64)
            answer = await ask.chat.completions.create(
                model="words", messages=[{"role": "user", "content": "hi"}]
            )
            assert answer.model == "chat"

    run_async(body())

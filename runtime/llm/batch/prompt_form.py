"""Chats as plain prompts, for providers that take many prompts in one request. Pure.

A model reads a chat through its template, which the provider applies. Where prompts are sent the
template is applied here, so the models file has to name it. What a template cannot carry (tools, forms
of answers, text that looks like the template's own marks) goes as a chat.
"""

from __future__ import annotations

from typing import Literal

from seedbed.runtime.llm.requests import ChatMessage, ChatRequest

PromptForm = Literal["plain", "chatml", "llama3"]
_MARK = "<|"
_CHAT_ONLY = ("tools", "response_format", "tool_choice", "parallel_tool_calls")


def as_prompt(request: ChatRequest, form: PromptForm) -> str | None:
    """What the model reads; None where the request has to go as a chat."""
    if (
        request.uncommon
        or request.further
        or any(getattr(request, name) is not None for name in _CHAT_ONLY)
    ):
        return None
    for message in request.messages:
        plain = message.content is not None and not message.tool_calls and message.role != "tool"
        if not plain or message.parts or message.model_extra or _MARK in (message.content or ""):
            return None
    if form == "plain":
        return _plain(request.messages)
    if form == "chatml":
        said = "".join(f"<|im_start|>{_role(m)}\n{m.content}<|im_end|>\n" for m in request.messages)
        return f"{said}<|im_start|>assistant\n"
    said = "".join(
        f"<|start_header_id|>{_role(m)}<|end_header_id|>\n\n{m.content}<|eot_id|>"
        for m in request.messages
    )
    return f"{said}<|start_header_id|>assistant<|end_header_id|>\n\n"


def _plain(messages: tuple[ChatMessage, ...]) -> str | None:
    """The text itself: only a single one has no need of a template."""
    alone = len(messages) == 1 and messages[0].role == "user"
    return messages[0].content if alone else None


def _role(message: ChatMessage) -> str:
    return "system" if message.role == "developer" else message.role

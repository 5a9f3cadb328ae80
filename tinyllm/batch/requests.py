"""The requests that a batch may hold."""

from __future__ import annotations

from typing import Any

from tinyllm.llm import LLM
from tinyllm.openai.errors import ApiError
from tinyllm.openai.requests import PreparedRequest, check_model, parse_body, prepare_chat, prepare_completion
from tinyllm.openai.schema import ChatRequest, CompletionRequest

URLS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}
"""What can be asked, with the schema of its body."""


def prepare(llm: LLM, name: str, url: str, body: dict[str, Any]) -> PreparedRequest:
    """A request as the server would prepare it.

    Args:
        name: the one under which requests ask for the model.

    Raises:
        ApiError, InvalidInputError, UnsupportedError: with the field that is wrong.
    """
    request = parse_body(URLS[url], body)
    check_model(request.model, name)
    if request.stream:
        raise ApiError(
            400, "stream: expected false, as a batch gives whole replies, got true", "stream", "unsupported_value"
        )
    return prepare_chat(llm, request) if isinstance(request, ChatRequest) else prepare_completion(llm, request)

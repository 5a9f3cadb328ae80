"""The steps of a prompt and of the tokens that follow it, for the commands that look at what a step does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyllm.errors import InvalidInputError

if TYPE_CHECKING:
    from tinyllm.engine.model_runner import ModelRunner, StepBatch
    from tinyllm.graph.observe import Observe
    from tinyllm.llm import LLM


def run_prompt(
    command: str, llm: LLM, prompt: str, max_tokens: int, observe: Observe | None = None
) -> tuple[ModelRunner, StepBatch, StepBatch]:
    """Run the step of the prompt and those of `max_tokens` tokens that follow it, each the most likely; gives the first
    and the last of these steps, which the runner may run again.

    Args:
        command: for the message. observe: told of every node and its values.

    Raises:
        InvalidInputError: prompt and tokens are longer than the model's context.
    """
    from tinyllm.engine.model_runner import Chunk, ModelRunner, make_step

    ids = llm.encode(prompt)
    if len(ids) + max_tokens > llm.context:
        raise InvalidInputError(
            f"{command}: expected a prompt and --max-tokens of at most {llm.context} tokens together, got {len(ids)} "
            f"and {max_tokens}"
        )
    size = llm.program.page_size
    pages = list(range(-(-(len(ids) + max_tokens) // size)))
    runner = ModelRunner(llm.program, len(pages), size)
    steps = [make_step([Chunk(ids, 0, pages)], size)]
    for place in range(len(ids), len(ids) + max_tokens):
        best = int(runner.step(steps[-1], observe, observe is not None)[-1].argmax())
        steps.append(make_step([Chunk([best], place, pages)], size))
    runner.step(steps[-1], observe, observe is not None)
    return runner, steps[0], steps[-1]

"""Tokens of further turns: what a chat template puts after an answer of the policy.

    prompt       <|im_start|>user ... <|im_end|> <|im_start|>assistant
    answer       <calc>37*54</calc>
    further turn <|im_end|> <|im_start|>tool ... <|im_end|> <|im_start|>assistant

A template is a program for whole conversations, and may write an earlier answer anew: without its thoughts, or
trimmed. So it is asked about a conversation whose answer is a mark, and what follows the mark is the further turn.
Nothing before it is rendered or tokenised again.
"""

from collections.abc import Sequence
from functools import lru_cache

from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.wire.arrays import Tokens
from tristream.wire.events import Message

QUESTION = Message(role="user", content="tristreamquestion")
ANSWER = Message(role="assistant", content="tristreamanswer")
"""The mark; templates trim, so it has no white space."""
PROBE = "tristreamprobe"
"""Content that tells whether a template shows messages of a role."""
NUM_ENCODERS = 4
"""Encoders whose turns are kept; a process has one."""


class TurnEncoder:
    """Encodes what is given to the policy after its answers, for one encoder of prompts."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._shown_roles: set[str] = set()
        added = encoder.tokenizer.added_tokens_decoder.items()
        self._special = {*encoder.tokenizer.all_special_ids, *(token for token, how in added if how.special)}

    def encode(self, messages: Sequence[Message], last_token: int | None) -> Tokens:
        """The end of the policy's turn, the messages, and the beginning of its next turn.

        Args:
            messages: messages of other roles, at least one; their image markers become one placeholder each.
            last_token: what the policy's turn ends with; if that is the token with which the template ends it, the end
                is not given twice.

        Raises:
            PolicyInputError: the template does not show messages of such a role, or it or the tokenizer refuses them.
        """
        for role in {message.role for message in messages} - self._shown_roles:
            self._require_shown(role)
        ids = self._encoder.encode_text(self._after_answer(messages)).to_list()
        end = next((place for place, token in enumerate(ids) if token in self._special), None)
        if end is not None and ids[end] == last_token:
            ids = ids[end + 1 :]
        return Tokens.of(ids)

    def ends_turn(self, token: int) -> bool:
        """Whether a token with which the engine stopped is the end of a turn, not one of the text."""
        return token in self._special

    def _require_shown(self, role: str) -> None:
        if PROBE not in self._after_answer([Message(role=role, content=PROBE)]):
            raise PolicyInputError(f"the model's chat template does not show messages of the role '{role}'")
        self._shown_roles.add(role)

    def _after_answer(self, messages: Sequence[Message]) -> str:
        text = self._encoder.render([QUESTION, ANSWER, *messages])
        _, mark, after = text.partition(ANSWER.content)
        if not mark:
            raise PolicyInputError("the model's chat template leaves out earlier answers")
        return after


@lru_cache(maxsize=NUM_ENCODERS)
def turns_of(encoder: PromptEncoder) -> TurnEncoder:
    """The turns of an encoder; what was learnt of its template is kept."""
    return TurnEncoder(encoder)

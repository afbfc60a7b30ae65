"""What the policy is given before its next answer: the prompt, or what an environment has added."""

from collections.abc import Sequence

from tristream.policy.prompt_encoder import EncodedPrompt, PromptEncoder
from tristream.policy.turns import turns_of
from tristream.wire.arrays import Tokens
from tristream.wire.events import Image, Message, Segment, given


class PendingInput:
    """Tokens and images that no answer has followed yet.

    Messages in a row are rendered together, as templates put the answers of several tools into one turn.
    """

    def __init__(self, encoder: PromptEncoder) -> None:
        self._encoder = encoder
        self._fixed = b""
        self._open = b""
        self._messages: tuple[Message, ...] = ()
        self._last_token: int | None = None
        self.is_first_prompt = False
        """Whether it is the prompt that the conversation begins with, and nothing but messages."""
        self.prompt_text = ""
        """The rendered first prompt, if it is this."""
        self.images: tuple[bytes, ...] = ()
        """Encoded images in order."""
        self.wire_images: tuple[Image, ...] = ()
        """The same as they are published."""

    @classmethod
    def first(
        cls,
        encoder: PromptEncoder,
        prompt: EncodedPrompt,
        messages: tuple[Message, ...],
        images: tuple[bytes, ...],
        wire_images: tuple[Image, ...],
    ) -> "PendingInput":
        """The first prompt of a conversation."""
        pending = cls(encoder)
        pending.is_first_prompt = True
        pending._open, pending._messages, pending.prompt_text = prompt.tokens.data, messages, prompt.text
        pending.images, pending.wire_images = images, wire_images
        return pending

    @classmethod
    def after(cls, encoder: PromptEncoder, last_token: int | None) -> "PendingInput":
        """Nothing yet, after an answer that ends with a token."""
        pending = cls(encoder)
        pending._last_token = last_token
        return pending

    @property
    def tokens(self) -> Tokens:
        """Its tokens, with one placeholder for each image."""
        return Tokens(self._fixed + self._open)

    def segment(self) -> Segment:
        """It as the model reads it, of image headers alone."""
        return given(self._encoder.expand(self.tokens, self.images), self.wire_images)

    def add(self, message: Message, images: Sequence[bytes], wire_images: Sequence[Image]) -> None:
        """Add a message of another role.

        Raises:
            PolicyInputError: the template, the tokenizer or the model refuses it.
        """
        messages, all_images = (*self._messages, message), (*self.images, *images)
        if self.is_first_prompt:
            prompt = self._encoder.encode(messages, all_images)
            tokens, self.prompt_text = prompt.tokens, prompt.text
        else:
            tokens = turns_of(self._encoder).encode(messages, self._last_token)
            self._encoder.expand(Tokens(self._fixed + tokens.data), all_images)
        self._open, self._messages = tokens.data, messages
        self.images, self.wire_images = all_images, (*self.wire_images, *wire_images)

    def add_text(self, text: str) -> None:
        """Add text within the policy's turn; what was added before it is not rendered again.

        Raises:
            PolicyInputError: the tokenizer refuses it.
        """
        tokens = self._encoder.encode_text(text)
        self._fixed, self._open = self._fixed + self._open + tokens.data, b""
        self._messages, self.is_first_prompt = (), False
        self._last_token = tokens.to_list()[-1] if tokens else self._last_token

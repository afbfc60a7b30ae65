"""A completion in the making, of parts from any servers and of any weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tristream.producer.engines.openai.wire import Chunk, VersionLabels
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Sampling, VersionSpan
from tristream.wire.seeds import derive_seed


@dataclass(slots=True, kw_only=True)
class PartialCompletion:
    """What there is of a completion."""

    request: GenerationRequest
    expanded_prompt: Tokens
    """The prompt with the placeholders of its images expanded."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: tuple[VersionSpan, ...] = ()
    num_cached_prompt_tokens: int = 0
    part_start: int = 0
    """Tokens that there were when the newest part was begun."""

    @property
    def all_tokens(self) -> list[int]:
        """Prompt and sampled tokens, as the model reads them."""
        return [*self.expanded_prompt.to_list(), *self.tokens]

    def begin_part(self) -> Sampling:
        """How the next part is sampled: what is left of the tokens; a later part draws other random numbers."""
        self.part_start = len(self.tokens)
        sampling = self.request.sampling
        seed = derive_seed(sampling.seed, self.part_start) if self.part_start else sampling.seed
        return replace(sampling, max_tokens=sampling.max_tokens - self.part_start, seed=seed)

    def add(self, chunk: Chunk, version: int) -> None:
        """Take tokens; ``version`` is what sampled them, unless the server says it better."""
        self.tokens.extend(chunk.tokens)
        self.logprobs.extend(chunk.logprobs)
        self.spans = extend_spans(self.spans, version, len(chunk.tokens))
        self.note_cached(chunk)
        if chunk.version_labels:
            self.spans = relabel_spans(self.spans, chunk.version_labels, self.part_start, len(self.tokens))

    def note_cached(self, chunk: Chunk) -> None:
        """Take the count of cached tokens; that of a later part counts what this completion brought itself."""
        if not self.part_start:
            self.num_cached_prompt_tokens = max(self.num_cached_prompt_tokens, chunk.num_cached_prompt_tokens)

    def cut(self, num_tokens: int) -> None:
        """Keep only the first tokens."""
        del self.tokens[num_tokens:], self.logprobs[num_tokens:]
        self.spans = cut_spans(self.spans, num_tokens)

    def finish(self, reason: FinishReason, started_ns: int, generate_seconds: float) -> Completion:
        """The completion."""
        return Completion(
            id=self.request.id,
            prompt_tokens=self.expanded_prompt,
            tokens=Tokens.of(self.tokens),
            logprobs=LogProbs.of(self.logprobs),
            version_spans=self.spans,
            finish_reason=reason,
            started_ns=started_ns,
            generate_seconds=generate_seconds,
        )


def extend_spans(spans: tuple[VersionSpan, ...], version: int, num_tokens: int) -> tuple[VersionSpan, ...]:
    """Spans with more tokens of a version at their end.

    Example:
        >>> [(span.version, span.start, span.end) for span in extend_spans(extend_spans((), 3, 2), 3, 1)]
        [(3, 0, 3)]
    """
    if not num_tokens:
        return spans
    start = spans[-1].end if spans else 0
    new = VersionSpan(version=version, start=start, end=start + num_tokens)
    if spans and spans[-1].version == version:
        return (*spans[:-1], replace(spans[-1], end=new.end))
    return (*spans, new)


def cut_spans(spans: tuple[VersionSpan, ...], num_tokens: int) -> tuple[VersionSpan, ...]:
    """The spans of the first tokens."""
    return tuple(replace(span, end=min(span.end, num_tokens)) for span in spans if span.start < num_tokens)


def relabel_spans(
    spans: tuple[VersionSpan, ...], labels: Sequence[VersionLabels], start: int, end: int
) -> tuple[VersionSpan, ...]:
    """Spans whose part from ``start`` to ``end`` is what the server says.

    Labels that are no versions, or do not cover that part without gaps, change nothing.
    """
    edges = [0, *(label.end for label in labels)]
    whole = all(label.start == edge for label, edge in zip(labels, edges, strict=False)) and edges[-1] == end - start
    if not whole or not all(label.label.isdecimal() and label.end > label.start for label in labels):
        return spans
    merged = cut_spans(spans, start)
    for label in labels:
        merged = extend_spans(merged, int(label.label), label.end - label.start)
    return merged


def find_stop(decode: Callable[[Sequence[int]], str], partial: PartialCompletion, num_looked_at: int) -> int | None:
    """How many tokens there are up to the end of a stop text that began before the newest part and ends in it, or None.

    A server that goes on from tokens looks for stop texts in what it adds alone.

    Args:
        decode: tokens to text.
        partial: the completion.
        num_looked_at: tokens at which this was asked before.
    """
    stops, start = partial.request.sampling.stop, partial.part_start
    if not stops or not start:
        return None
    # A character may be of up to four tokens, those of its bytes.
    reach = 4 * max(map(len, stops))
    first = max(0, start - reach)
    for end in range(max(start, num_looked_at) + 1, min(len(partial.tokens), start + reach) + 1):
        text = decode(partial.tokens[first:end])
        if any(stop in text for stop in stops):
            return end
    return None

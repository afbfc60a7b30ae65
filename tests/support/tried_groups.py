"""Judged groups with chosen rewards and texts, for what ``tristream try`` says of them."""

from collections.abc import Mapping, Sequence

from tristream.local.trying.judged_groups import JudgedAnswer, JudgedGroup, TermVerdict
from tristream.verifiers.pool.tasks import Judgement
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Message,
    OnUnscored,
    Progress,
    Prompt,
    RewardSpec,
    RewardTerm,
    Rollout,
    Sampling,
    Split,
    Status,
    VersionSpan,
    sampled,
)

TERM = RewardTerm(id="math", verifier="math", version="2", weights={"accuracy": 1.0, "format": 0.0})
MAX_TOKENS = 64


def make_prompt(
    number: int = 0,
    *,
    size: int = 4,
    source: str = "sums",
    terms: Sequence[RewardTerm] = (TERM,),
    on_unscored: OnUnscored = OnUnscored.LEAVE_OUT,
) -> Prompt:
    return Prompt(
        group=Group(run="demo", split=Split.TRAIN, number=number, source=source, sample_id=str(number), size=size),
        messages=(Message(role="user", content=f"What is {number} + 1?"),),
        images=(),
        reward=RewardSpec(terms=tuple(terms), ground_truth=str(number + 1), on_unscored=on_unscored),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=MAX_TOKENS, seed=number),
        progress=Progress(step=1, total_steps=4),
        created_ns=1,
    )


def make_rollout(
    prompt: Prompt,
    index: int,
    *,
    text: str = "",
    num_tokens: int = 10,
    finish_reason: FinishReason = FinishReason.STOP,
    seconds: float = 0.5,
    error: str = "",
) -> Rollout:
    spans = (VersionSpan(version=0, start=0, end=num_tokens),)
    segment = sampled(Tokens.of([5] * num_tokens), LogProbs.of([-1.0] * num_tokens), spans)
    return Rollout(
        group=prompt.group,
        index=index,
        segments=(segment,) if num_tokens else (),
        text=text,
        finish_reason=finish_reason,
        prompt_text="",
        reward=prompt.reward,
        progress=prompt.progress,
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=seconds,
        producer="try",
        error=error,
        created_ns=1,
    )


def make_verdict(
    components: Mapping[str, float] | None,
    *,
    term: RewardTerm = TERM,
    status: Status = Status.SCORED,
    detail: str = "",
    params_json: str = '{"answer_in": "boxed"}',
    seconds: float = 0.01,
) -> TermVerdict:
    judgement = Judgement() if components is None else Judgement(components=components, params_json=params_json)
    return TermVerdict(term=term, status=status, detail=detail, judgement=judgement, seconds=seconds)


def make_group(
    rewards: Sequence[float | None],
    *,
    number: int = 0,
    texts: Sequence[str] = (),
    highest_reward: float = 1.0,
    num_tokens: int = 10,
    finish_reason: FinishReason = FinishReason.STOP,
    params_json: str = '{"answer_in": "boxed"}',
) -> JudgedGroup:
    """A group of one term whose accuracy is the reward; None is an answer that cannot be scored."""
    prompt = make_prompt(number, size=len(rewards))
    answers = []
    for index, reward in enumerate(rewards):
        text = texts[index] if texts else f"answer {number}/{index}"
        if reward is None:
            verdict = make_verdict(None, status=Status.UNSCORABLE, detail="the truth is none")
        else:
            verdict = make_verdict({"accuracy": reward}, params_json=params_json)
        rollout = make_rollout(prompt, index, text=text, num_tokens=num_tokens, finish_reason=finish_reason)
        answers.append(JudgedAnswer(rollout=rollout, verdicts=(verdict,), reward=reward))
    return JudgedGroup(
        prompt=prompt,
        answers=tuple(answers),
        highest_reward=highest_reward,
        started_seconds=float(number),
        answered_seconds=number + 2.0,
    )


def make_failed_group(size: int = 4, *, error: str = "an image is damaged") -> JudgedGroup:
    prompt = make_prompt(size=size)
    failed = [
        make_rollout(prompt, index, num_tokens=0, finish_reason=FinishReason.ERROR, error=error)
        for index in range(size)
    ]
    return JudgedGroup(prompt=prompt, answers=tuple(JudgedAnswer(rollout=rollout) for rollout in failed))

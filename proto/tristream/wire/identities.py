"""Identities of groups, rollouts and rewards: the keys by which handlers are idempotent."""

ANSWER_MARK = "/from/"


def training_group_id(run: str, number: int) -> str:
    """Identity of the ``number``-th training prompt: ``run/n``."""
    return f"{run}/{number}"


def evaluation_group_id(run: str, eval_step: int, eval_attempt: int, number: int) -> str:
    """Identity of a round's ``number``-th prompt: ``run/eval-STEP/n``, ``run/eval-STEP.1/n`` the second time."""
    attempt = f".{eval_attempt}" if eval_attempt else ""
    return f"{run}/eval-{eval_step}{attempt}/{number}"


def rollout_id(group_id: str, index: int) -> str:
    """Identity of one rollout: ``GROUP/index``."""
    return f"{group_id}/{index}"


def answer_id(request_id: str, number: int) -> str:
    """Identity of the run's answer to a request, which holds from a prompt number on: ``REQUEST/from/n``."""
    return f"{request_id}{ANSWER_MARK}{number}"


def answered_id(answer: str) -> str:
    """Identity of the request that an answer is for."""
    return answer.rpartition(ANSWER_MARK)[0]


def reward_id(rollout: str, term_id: str, version: str) -> str:
    """Identity of one judgement: ``ROLLOUT|term|version``."""
    return f"{rollout}|{term_id}|{version}"

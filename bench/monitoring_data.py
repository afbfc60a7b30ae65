"""A long run made up in the database itself: groups, rollouts, two rewards each, steps, drops and held-out rounds."""

from dataclasses import dataclass
from pathlib import Path

from tristream.config.run_file import RunFile
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.closing import Closing
from tristream.monitoring.store.run_facts import write_sources
from tristream.monitoring.store.touched import GROUPS_PER_BLOCK, MINUTE_NS, Touched
from tristream.monitoring.store.writer import Writer

RUN = "long"
SOURCES = tuple(f"source_{number}" for number in range(8))
GROUP_SIZE = 8
GROUPS_OF_STEP = 80
"""Of which each fourth was dropped."""
STEP_NS = 10 * 10**9
START_NS = 1_700_000_000 * 10**9
STEPS_OF_ROUND = 500
PROMPTS_OF_ROUND = 1024
ROLLOUTS_AT_ONCE = 500_000

_SOURCE = f"concat('source_', toString(number % {len(SOURCES)}))"
_CREATED = (
    f"fromUnixTimestamp64Nano({START_NS} + intDiv(toInt64(number) * {STEP_NS}, {GROUPS_OF_STEP}) - {STEP_NS}, 'UTC')"
)
_TERMS = """
    ['math', 'strict'] AS term_ids, ['math', 'strict'] AS term_verifiers, ['1', '1'] AS term_versions,
    ['active', 'shadow'] AS term_modes
"""
_GROUP = f"""
    '{RUN}' AS run, 'train' AS split, toInt64(0) AS eval_step, toInt32(0) AS eval_attempt, number, {_SOURCE} AS source
"""
_PROMPTS = f"""
    INSERT INTO prompts (run, split, eval_step, eval_attempt, number, source, group_size, step, text, term_ids,
                         term_verifiers, term_versions, term_modes, created, rank)
    SELECT {_GROUP}, {GROUP_SIZE} AS group_size, 1 + intDiv(number, {GROUPS_OF_STEP}) AS step,
        concat('How much is ', toString(number), '?') AS text, {_TERMS}, {_CREATED} AS created, 1 AS rank
    FROM (SELECT toInt64(number) AS number FROM numbers({{first}}, {{count}}))
"""
_ROLLOUTS = f"""
    INSERT INTO rollouts (run, split, eval_step, eval_attempt, number, source, rollout_index, group_size, step,
                          prompt_text, text, term_ids, term_verifiers, term_versions, term_modes,
                          reward_weights, num_segments, num_prompt_tokens, num_completion_tokens, finish_reason,
                          newest_version, reflection_words,
                          producer, created, rank)
    SELECT {_GROUP}, rollout_index, {GROUP_SIZE} AS group_size, 1 + intDiv(number, {GROUPS_OF_STEP}) AS step,
        concat('How much is ', toString(number), '?') AS prompt_text,
        concat('Wait. ', hex(sipHash128(number, rollout_index)), ' is the answer.') AS text, {_TERMS},
        map('math.accuracy', 1.) AS reward_weights, 2 AS num_segments, 100 AS num_prompt_tokens,
        200 + cityHash64(number, rollout_index) % 300 AS num_completion_tokens,
        if(cityHash64(rollout_index, number) % 20 = 0, 'length', 'stop') AS finish_reason,
        intDiv(number, {GROUPS_OF_STEP}) AS newest_version,
        if(number % 3 = 0, map('wait', 1), map()) AS reflection_words,
        concat('producer-', toString(number % 4)) AS producer, {_CREATED} AS created, 1 AS rank
    FROM (SELECT toInt64(intDiv(number, {GROUP_SIZE})) AS number, toInt32(number % {GROUP_SIZE}) AS rollout_index
          FROM numbers({{first}}, {{count}}))
"""
_REWARDS = f"""
    INSERT INTO rewards (run, split, eval_step, eval_attempt, number, source, rollout_index, term_id, verifier,
                         version, mode, status, components, metrics, params_json, queued_seconds, score_seconds,
                         created, rank)
    SELECT {_GROUP}, rollout_index, ['math', 'strict'][which] AS term_id, term_id AS verifier, '1' AS version,
        ['active', 'shadow'][which] AS mode, if(cityHash64(number, which) % 100 = 0, 'timeout', 'scored') AS status,
        if(status = 'scored',
           map('accuracy', toFloat64(cityHash64(number, rollout_index) % 2), 'format', 1.), map()) AS components,
        map('num_answers', 1.) AS metrics, '{{{{"iou_threshold": 0.5}}}}' AS params_json, 0.01 AS queued_seconds,
        (cityHash64(number, rollout_index, which) % 100) / 1000 AS score_seconds, {_CREATED} AS created, 1 AS rank
    FROM (SELECT toInt64(intDiv(number, {GROUP_SIZE})) AS number, toInt32(number % {GROUP_SIZE}) AS rollout_index,
                 arrayJoin([1, 2]) AS which
          FROM numbers({{first}}, {{count}}))
"""
_WORTH = f"""
    arrayMap(i -> toInt32(i), range({GROUP_SIZE})) AS rollout_indexes, arrayMap(i -> 1, range({GROUP_SIZE})) AS valid,
    arrayMap(i -> if(number % 4 = 3, 1., toFloat64(cityHash64(number, toInt32(i)) % 2)), range({GROUP_SIZE}))
        AS rewards,
    arrayMap(i -> rewards[i + 1] - 0.5, range({GROUP_SIZE})) AS advantages,
    arrayMap(i -> toInt64(number % 2), range({GROUP_SIZE})) AS ages
"""
_OUTCOMES = f"""
    INSERT INTO outcomes (run, split, eval_step, eval_attempt, number, source, fate, step, reason, group_size,
                          has_zero_variance, rollout_indexes, valid, rewards, advantages, ages, created, rank)
    SELECT {_GROUP}, if(number % 4 = 3, 'dropped', 'trained') AS fate,
        if(number % 4 = 3, 0, 1 + intDiv(number, {GROUPS_OF_STEP})) AS step,
        if(number % 4 = 3, 'zero_variance', '') AS reason, {GROUP_SIZE} AS group_size,
        number % 4 = 3 AS has_zero_variance, {_WORTH}, {_CREATED} + INTERVAL 1 MILLISECOND AS created, 1 AS rank
    FROM (SELECT toInt64(number) AS number FROM numbers({{first}}, {{count}}))
"""
_STEPS = f"""
    INSERT INTO steps (run, step, total_steps, metrics, layer_grad_norms, phase_seconds, numbers, rollout_indexes,
                       zero_variances, valid, rewards, advantages, ages, mean_logprobs, mean_entropies, clip_fractions,
                       mean_kls, num_completion_tokens, num_groups, max_age, created, rank)
    SELECT '{RUN}' AS run, 1 + intDiv(number, {GROUPS_OF_STEP}) AS step, {{steps}} AS total_steps,
        map('loss', 0.1, 'grad_norm', 1., 'entropy', 0.5) AS metrics,
        mapFromArrays(arrayMap(i -> concat('model.layers.', toString(i)), range(24)), arrayMap(i -> 0.1, range(24)))
            AS layer_grad_norms,
        map('wait', 4., 'forward_backward', 5., 'optimizer', 1.) AS phase_seconds,
        groupArrayArray(arrayMap(i -> number, group_indexes)) AS numbers,
        groupArrayArray(group_indexes) AS rollout_indexes,
        arrayMap(i -> 0, numbers) AS zero_variances, arrayMap(i -> 1, numbers) AS valid,
        groupArrayArray(group_rewards) AS rewards, groupArrayArray(group_advantages) AS advantages,
        groupArrayArray(group_ages) AS ages, arrayMap(i -> -0.5, numbers) AS mean_logprobs,
        arrayMap(i -> 0.5 + 0.001 * (i % 100), numbers) AS mean_entropies,
        arrayMap(i -> 0.01, numbers) AS clip_fractions, arrayMap(i -> 0.002, numbers) AS mean_kls,
        300 * length(numbers) AS num_completion_tokens,
        count() AS num_groups, 1 AS max_age,
        fromUnixTimestamp64Nano({START_NS} + intDiv(min(number), {GROUPS_OF_STEP}) * {STEP_NS}, 'UTC') AS created,
        1 AS rank
    FROM (SELECT number, rollout_indexes AS group_indexes, rewards AS group_rewards, advantages AS group_advantages,
                 ages AS group_ages
          FROM (SELECT toInt64(number) AS number, {_WORTH} FROM numbers({{first}}, {{count}})) WHERE number % 4 != 3)
    GROUP BY intDiv(number, {GROUPS_OF_STEP})
"""
_POLICY = f"""
    INSERT INTO policy (run, version, total_steps, created, rank)
    SELECT '{RUN}', number, {{steps}}, fromUnixTimestamp64Nano({START_NS} + toInt64(number - 1) * {STEP_NS}, 'UTC'), 1
    FROM numbers({{steps}} + 1)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LongRun:
    """How much there is of a run."""

    num_rewards: int

    @property
    def num_steps(self) -> int:
        """Steps, of a number of whole ones."""
        return max(1, self.num_rewards // (2 * GROUP_SIZE * GROUPS_OF_STEP))

    @property
    def num_groups(self) -> int:
        """Training groups."""
        return self.num_steps * GROUPS_OF_STEP

    def fill(self, client: Client) -> None:
        """Write all events."""
        groups_at_once = ROLLOUTS_AT_ONCE // GROUP_SIZE // GROUPS_OF_STEP * GROUPS_OF_STEP
        for first in range(0, self.num_groups, groups_at_once):
            count = min(groups_at_once, self.num_groups - first)
            for query in (_PROMPTS, _OUTCOMES, _STEPS):
                client.command(query.format(first=first, count=count, steps=self.num_steps))
            for query in (_ROLLOUTS, _REWARDS):
                client.command(query.format(first=first * GROUP_SIZE, count=count * GROUP_SIZE))
        client.command(_POLICY.format(steps=self.num_steps))
        for step in range(0, self.num_steps + 1, STEPS_OF_ROUND):
            self._fill_round(client, step)

    def touched(self) -> Touched:
        """All keys of the run."""
        seconds = self.num_steps * STEP_NS
        return Touched(
            steps=set(range(1, self.num_steps + 1)),
            blocks=set(range(self.num_groups // GROUPS_PER_BLOCK + 1)),
            rounds={(step, 0) for step in range(0, self.num_steps + 1, STEPS_OF_ROUND)},
            minutes=set(range(START_NS // MINUTE_NS - 1, (START_NS + seconds) // MINUTE_NS + 1)),
        )

    def close(self, client: Client, settings: RunFile) -> None:
        """Close all that there is, as a sink does that reads the log anew."""
        writer = Writer(client, RUN, report=print)
        write_sources(writer, RUN, settings.sources)
        closing, touched = Closing(writer, RUN), self.touched()
        closing.close_steps(touched)
        closing.close_others(touched)

    def _fill_round(self, client: Client, step: int) -> None:
        """A held-out round: the first groups of the run, as others."""
        for query in (_PROMPTS, _ROLLOUTS, _REWARDS):
            of_round = query.replace(
                "'train' AS split, toInt64(0) AS eval_step", f"'eval' AS split, toInt64({step}) AS eval_step"
            )
            of_round = (
                of_round.replace(f"{GROUP_SIZE} AS group_size", "1 AS group_size")
                .replace(f"intDiv(number, {GROUP_SIZE}))", "number)")
                .replace(f"number % {GROUP_SIZE}) AS rollout_index", "0) AS rollout_index")
            )
            client.command(of_round.format(first=0, count=PROMPTS_OF_ROUND))


def make_settings(folder: Path) -> RunFile:
    """A run file with the sources of the long run."""
    return RunFile.model_validate(
        {
            "run": {"id": RUN, "steps": 10_000, "output": folder},
            "model": {"path": folder / "model"},
            "sources": [{"name": name, "train": folder / f"{name}.parquet"} for name in SOURCES],
        }
    )

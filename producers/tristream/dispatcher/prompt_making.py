"""Prompts of a run: the n-th of training, the n-th of an evaluation round.

Making the same prompt twice gives the same prompt but for its time and progress. The reward terms of a prompt are
pinned here: each has an id of its own and the version of its verifier.
"""

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import CheckedFile
from tristream.dispatcher.data.samples import Sample, SampleTerm
from tristream.dispatcher.data.source_files import load_sources
from tristream.dispatcher.fingerprint import prompt_digest, run_fingerprint
from tristream.dispatcher.mixing import MixedSource, Mixture
from tristream.runtime.store import BlobStore
from tristream.wire.events import Group, Image, Progress, Prompt, RewardSpec, RewardTerm, Sampling, Split, Weights
from tristream.wire.seeds import derive_seed
from tristream.wire.verifiers import BUILT_IN_VERSIONS


class PromptMaker:
    """Makes prompts from the rows of all sources.

    Raises:
        UserError: a file of a source is malformed, or has rows that cannot be used and are not to be left out.
    """

    def __init__(self, settings: DispatcherSettings, blobs: BlobStore) -> None:
        self._settings = settings
        self._blobs = blobs
        tables = load_sources(settings.sources, RowRules.of(settings.rollout, settings.store))
        self._train_tables = [train for train, _ in tables]
        self._eval_tables = [(number, held_out) for number, (_, held_out) in enumerate(tables) if held_out is not None]
        mixed = [
            MixedSource(name=source.name, weight=source.weight, size=len(table))
            for source, table in zip(settings.sources, self._train_tables, strict=True)
        ]
        self.mixture = Mixture(mixed, settings.run.seed)
        """Says whose turn it is; sources are paused there."""
        self.run_fingerprint = run_fingerprint(settings, tables)
        """What every prompt carries."""

    @property
    def files(self) -> list[CheckedFile]:
        """What is known of each file, its bad rows among it."""
        return [table.file for table in (*self._train_tables, *(table for _, table in self._eval_tables))]

    @property
    def num_eval_prompts(self) -> int:
        """Prompts of one evaluation round."""
        return sum(len(table) for _, table in self._eval_tables)

    def training_prompt(self, number: int, progress: Progress) -> Prompt:
        """The ``number``-th training prompt."""
        rollout = self._settings.rollout
        pick = self.mixture.pick(number)
        sample = self._train_tables[pick.source][pick.sample]
        group = Group(
            run=self._settings.run.id,
            split=Split.TRAIN,
            number=number,
            source=sample.source,
            sample_id=sample.sample_id,
            size=rollout.group_size,
        )
        sampling = Sampling(
            temperature=rollout.temperature, top_p=rollout.top_p, max_tokens=rollout.max_tokens, seed=self._seed(group)
        )
        parameters = self._settings.sources[pick.source].params
        return self._prompt(group, sample, sampling, progress, parameters=parameters)

    def evaluation_prompt(self, number: int, weights: Weights, attempt: int = 0) -> Prompt:
        """The ``number``-th held-out row, to be answered greedily with the given weights."""
        source, sample = self._eval_sample(number)
        group = Group(
            run=self._settings.run.id,
            split=Split.EVAL,
            number=number,
            source=sample.source,
            sample_id=sample.sample_id,
            size=1,
            eval_step=weights.version,
            eval_attempt=attempt,
        )
        max_tokens = self._settings.evaluation.max_tokens or self._settings.rollout.max_tokens
        sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=max_tokens, seed=self._seed(group))
        progress = Progress(step=weights.version, total_steps=self._settings.run.steps)
        parameters = self._settings.sources[source].eval_params
        return self._prompt(group, sample, sampling, progress, parameters=parameters, weights=weights)

    def _eval_sample(self, number: int) -> tuple[int, Sample]:
        for source, table in self._eval_tables:
            if number < len(table):
                return source, table[number]
            number -= len(table)
        raise IndexError(f"there is no held-out row {number} beyond the last")

    def _prompt(
        self,
        group: Group,
        sample: Sample,
        sampling: Sampling,
        progress: Progress,
        *,
        parameters: Mapping[str, Any],
        weights: Weights | None = None,
    ) -> Prompt:
        terms = pin_terms([overlay_parameters(term, parameters) for term in sample.terms])
        prompt = Prompt(
            group=group,
            messages=sample.messages,
            images=self._put_images(sample),
            reward=RewardSpec(terms=terms, ground_truth=sample.ground_truth),
            sampling=sampling,
            progress=progress,
            pinned_weights=weights,
            run_fingerprint=self.run_fingerprint,
            created_ns=time.time_ns(),
        )
        return replace(prompt, digest=prompt_digest(prompt))

    def _put_images(self, sample: Sample) -> tuple[Image, ...]:
        return tuple(self._blobs.put_image(image.data, image.media_type) for image in sample.images)

    def _seed(self, group: Group) -> int:
        return derive_seed(self._settings.run.seed, group.id)


def overlay_parameters(term: SampleTerm, parameters: Mapping[str, Any]) -> SampleTerm:
    """The term with parameters laid over its own; tables are merged, other values replaced."""
    if not parameters:
        return term
    return replace(term, params_json=json.dumps(_merge(json.loads(term.params_json), parameters), sort_keys=True))


def pin_terms(terms: Sequence[SampleTerm]) -> tuple[RewardTerm, ...]:
    """Reward terms with the versions that verifiers have now.

    A term is called like its verifier; further terms of the same verifier are ``NAME-2``, ``NAME-3`` ...

    Raises:
        KeyError: a verifier does not exist.
    """
    num_seen: Counter[str] = Counter()
    pinned = []
    for term in terms:
        num_seen[term.verifier] += 1
        number = num_seen[term.verifier]
        pinned.append(
            RewardTerm(
                id=term.verifier if number == 1 else f"{term.verifier}-{number}",
                verifier=term.verifier,
                version=BUILT_IN_VERSIONS[term.verifier],
                weights=term.weights,
                params_json=term.params_json,
            )
        )
    return tuple(pinned)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both_are_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_are_tables else value
    return merged

"""Prompts of a run: the n-th of training, the n-th of an evaluation round.

Making the same prompt twice gives the same prompt but for its time and progress. The reward terms of a prompt are
pinned here: each has an id of its own and the version of its verifier, as the plan of the run says.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import CheckedFile
from tristream.dispatcher.data.samples import Sample, SampleTerm
from tristream.dispatcher.data.source_files import load_sources
from tristream.dispatcher.fingerprint import prompt_digest, run_fingerprint
from tristream.dispatcher.mixing import MixedSource, Mixture
from tristream.dispatcher.verifier_plan import VerifierPlan
from tristream.runtime.store import BlobStore
from tristream.wire.events import Group, Image, Progress, Prompt, RewardSpec, Sampling, Split, Weights
from tristream.wire.seeds import derive_seed


class PromptMaker:
    """Makes prompts from the rows of all sources.

    Raises:
        UserError: a file of a source is malformed, or has rows that cannot be used and are not to be left out.
    """

    def __init__(self, settings: DispatcherSettings, blobs: BlobStore) -> None:
        self._settings = settings
        self._blobs = blobs
        tables = load_sources(settings.sources, RowRules.of(settings.rollout, settings.store, settings.verification))
        self._train_tables = [train for train, _ in tables]
        self._eval_tables = [(number, held_out) for number, (_, held_out) in enumerate(tables) if held_out is not None]
        mixed = [
            MixedSource(name=source.name, weight=source.weight, size=len(table))
            for source, table in zip(settings.sources, self._train_tables, strict=True)
        ]
        self.mixture = Mixture(mixed, settings.run.seed)
        """Says whose turn it is; sources are paused there."""
        row_verifiers = {
            source.name: {
                verifiers for table in pair if table is not None for verifiers in table.file.weighted_verifiers
            }
            for source, pair in zip(settings.sources, tables, strict=True)
        }
        self.plan = VerifierPlan(row_verifiers, settings.verification.plug_ins, settings.verification.shadows)
        """Says which verifiers judge; it is told what was commanded."""
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
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            min_p=rollout.min_p,
            max_tokens=rollout.max_tokens,
            seed=self._seed(group),
            stop=rollout.stop,
            stop_token_ids=rollout.stop_token_ids,
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
        rollout = self._settings.rollout
        sampling = Sampling(
            temperature=0.0,
            top_p=1.0,
            max_tokens=self._settings.evaluation.max_tokens or rollout.max_tokens,
            seed=self._seed(group),
            stop=rollout.stop,
            stop_token_ids=rollout.stop_token_ids,
        )
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
        own = self.plan.pin([overlay_parameters(term, parameters) for term in sample.terms])
        if weights is None:
            terms = self.plan.terms_for(group.number, group.source, own)
        else:
            terms = self.plan.evaluation_terms(weights.version, group.source, own)
        prompt = Prompt(
            group=group,
            messages=sample.messages,
            images=self._put_images(sample),
            reward=RewardSpec(terms=terms, ground_truth=sample.ground_truth, columns_json=sample.columns_json),
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


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both_are_tables = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both_are_tables else value
    return merged

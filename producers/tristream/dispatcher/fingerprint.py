"""Fingerprints: of all that the prompts of a run depend on, and of one prompt."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.data.sample_table import SampleTable
from tristream.wire.events import Progress, Prompt
from tristream.wire.topics import PROMPTS
from tristream.wire.verifiers import pinned_versions, versioned_name

NO_PROGRESS = Progress(step=0, total_steps=1)


def run_fingerprint(settings: DispatcherSettings, tables: Sequence[tuple[SampleTable, SampleTable | None]]) -> str:
    """Fingerprint of what prompts depend on: settings and data, but not steps, learning or admission.

    Args:
        settings: the run.
        tables: rows of each source to train on and held out.
    """
    rollout = settings.rollout
    content = {
        "seed": settings.run.seed,
        "group_size": rollout.group_size,
        "sampling": [rollout.temperature, rollout.top_p, rollout.max_tokens],
        "evaluation_max_tokens": settings.evaluation.max_tokens or rollout.max_tokens,
        "sources": [
            {
                "name": source.name,
                "weight": source.weight,
                "params": source.params,
                "eval_params": source.eval_params,
                "rows": [_rows(table) for table in pair if table is not None],
            }
            for source, pair in zip(settings.sources, tables, strict=True)
        ],
    }
    if any(further := [rollout.top_k, rollout.min_p, rollout.stop, rollout.stop_token_ids]):
        content["further_sampling"] = further
    if plug_ins := _plug_ins_of_rows(settings.verification.plug_ins, tables):
        content["plug_ins"] = plug_ins
    if settings.verification.shadows:
        content["shadows"] = settings.verification.shadows
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def prompt_digest(prompt: Prompt) -> str:
    """Digest of what a prompt asks and how it is judged; not of when it was made, or where its images are kept."""
    images = tuple(replace(image, data=b"", uri="") for image in prompt.images)
    bare = replace(prompt, images=images, progress=NO_PROGRESS, run_fingerprint="", digest="", created_ns=0)
    return hashlib.sha256(PROMPTS.codec.encode(bare)).hexdigest()


def _plug_ins_of_rows(
    plug_ins: Mapping[str, str], tables: Sequence[tuple[SampleTable, SampleTable | None]]
) -> dict[str, str]:
    """Version by name of the plug-ins that rows ask for; others change no prompt."""
    pinned = pinned_versions(plug_ins)
    names = {name for pair in tables for table in pair if table is not None for name in table.file.verifier_rows}
    return {name: pinned[name] for name in sorted(names) if versioned_name(name, pinned[name]) in plug_ins}


def _rows(table: SampleTable) -> dict[str, object]:
    """The file as it is, and which of its rows are left out."""
    return {"sha256": table.file.sha256, "left_out": [row.row_number for row in table.file.bad_rows]}

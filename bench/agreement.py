"""How far a producer's log-probabilities are from the learner's, token by token, in a run.

Those rollouts are looked at that the first weights sampled from begin to end, training and held-out ones, since the
model's folder still has those weights. The learner's side is its own packed forward pass, at the run's precision and
each rollout's temperature. Rollouts are read from the run's archive, which a run on an embedded broker has.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from bench.measuring import make_table, say, show, write_results
from torch import Tensor

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.learner.training.packing import pack_plan, plan_groups
from tristream.learner.training.reference_policy import ReferencePolicy
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.trained_policy import load_policy
from tristream.policy.images import ImageLoader
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.store import open_store
from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import Rollout
from tristream.wire.topics import ROLLOUTS

MEAN_GOAL_NATS = {"transformers": 0.005, "vllm": 0.02, "openai": 0.02}
PERCENTILE_GOAL_NATS = 0.2
CLIPPED_GOAL = 0.001


def main() -> None:
    """Print how far the two are apart in the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the run")
    parser.add_argument("--groups", type=int, default=64, help="at most so many groups (default: %(default)s)")
    arguments = parser.parse_args()
    folder = RunFolder(arguments.folder)
    try:
        settings = load_run_file(folder.run_file, environment={})
        groups = read_groups(settings, folder)[: arguments.groups]
    except UserError as error:
        parser.error(str(error))
    if not groups:
        parser.error(f"{arguments.folder}: no rollout in the archive was sampled by the first weights alone")
    say(f"computing {sum(len(group.rollouts) for group in groups)} rollouts again")
    differences = torch.cat(list(measure(settings, folder, groups)))
    report(settings, differences)


def read_groups(settings: RunFile, folder: RunFolder) -> list[TrainingGroup]:
    """Groups with those of their rollouts that the first weights sampled."""
    rollouts: dict[str, dict[int, Rollout]] = defaultdict(dict)
    for record in ArchiveBus(folder.archive, settings.run.id).reader([ROLLOUTS]).read_to_end():
        rollout = record.event
        spans = [span for segment in rollout.segments for span in segment.version_spans]
        if spans and all(span.version == 0 for span in spans):
            rollouts[rollout.group.id].setdefault(rollout.index, rollout)
    return [
        TrainingGroup(
            group=next(iter(group.values())).group,
            rollouts=tuple(
                TrainingRollout(index=one.index, segments=one.segments, temperature=one.temperature or 1.0)
                for one in group.values()
            ),
        )
        for group in rollouts.values()
    ]


def measure(settings: RunFile, folder: RunFolder, groups: list[TrainingGroup]) -> Iterator[Tensor]:
    """Differences in nats, the learner's less the producer's, [tokens] of each group."""
    policy = load_policy(
        settings.model.path,
        precision=settings.model.precision,
        freeze=settings.model.freeze,
        logprob_chunk_tokens=settings.learner.logprob_chunk_tokens,
    )
    learners_side = ReferencePolicy(policy)
    rules, budget = policy.packing_rules(), settings.learner.micro_batch_tokens
    loader = ImageLoader(settings.model.path, open_store(settings.store, folder).read_image)
    for group in groups:
        images = {image.sha256: loader.load(image) for one in group.rollouts for image in one.images}
        advantages = {RolloutKey(group_number=group.group.number, index=one.index): 0.0 for one in group.rollouts}
        for micro_batch in pack_plan(plan_groups([group], images, advantages, budget, rules), 0, rules):
            logprobs = learners_side.logprobs(micro_batch)
            yield (logprobs - micro_batch.old_logprobs)[micro_batch.is_trained].double()


def report(settings: RunFile, differences: Tensor) -> None:
    """Print the figures beside their goals, and keep them."""
    algorithm, ratios = settings.learner.algorithm, differences.exp()
    is_clipped = (ratios < 1 - algorithm.clip_low) | (ratios > 1 + algorithm.clip_high)
    mean, percentile = differences.abs().mean().item(), differences.abs().quantile(0.99).item()
    clipped, largest = is_clipped.double().mean().item(), differences.abs().max().item()
    rows = [
        ("mean difference", f"{mean:.2g} nats", f"{MEAN_GOAL_NATS[settings.rollout.engine.type]} nats"),
        ("99th percentile", f"{percentile:.2g} nats", f"{PERCENTILE_GOAL_NATS} nats"),
        ("largest", f"{largest:.2g} nats", ""),
        ("beyond the clip range", f"{100 * clipped:.3f} %", f"{100 * CLIPPED_GOAL} %"),
    ]
    engine = settings.rollout.engine.type
    title = f"{engine} and the learner, {settings.model.precision}, {len(differences):,} tokens"
    show(make_table(title, ("of absolute differences", "measured", "at most"), rows))
    results = {"mean_nats": mean, "p99_nats": percentile, "largest_nats": largest, "clipped_share": clipped}
    where = write_results(
        "agreement", {"engine": engine, "precision": settings.model.precision, "tokens": len(differences), **results}
    )
    say(f"written to {where}")


if __name__ == "__main__":
    main()

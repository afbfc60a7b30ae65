"""What verifiers say of a source's rollouts, by training step: components, metrics, and V-Triune's by name."""

from collections.abc import Iterator

from tristream.monitoring.registry.metric import Dashboard, Metric, Unit

_POPULATION = "over the rollouts that a step trained on"
_MATCHINGS = {"pure": "mean IoU", "precision": "precision", "recall": "recall"}
_THRESHOLDS = (50, 75, 95, 99)


def _said(
    name: str, title: str, meaning: str, *, where: str, dashboards: tuple[Dashboard, ...] = ("source",)
) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit=Unit.SCORE,
        meaning=meaning,
        view="source_components",
        column="mean_value",
        per=("source", "name"),
        where=where,
        dashboards=dashboards,
    )


def _named(*names: str) -> str:
    """Metrics of any term under one of the names."""
    return "kind = 'metric' AND substring(name, position(name, '.') + 1) IN (" + ", ".join(map(repr, names)) + ")"


def _boxes() -> Iterator[Metric]:
    for threshold in _THRESHOLDS:
        for kind, words in _MATCHINGS.items():
            yield _said(
                f"iou_{threshold}_{kind}",
                f"IoU@{threshold} {words}",
                f"Mean {words} of the matching of predicted and true boxes of the same label at an IoU of"
                f" {threshold / 100:g} or more, {_POPULATION}.",
                where=_named(f"iou_{threshold}_{kind}", f"report_iou_{threshold}_label_match_{kind}"),
            )
    for name, words in {"map": "0.5 to 0.95", "map50": "0.5", "map75": "0.75"}.items():
        yield _said(
            name,
            f"mAP{name.removeprefix('map')}",
            f"Mean average precision of the boxes at IoU {words}, {_POPULATION}.",
            where=_named(name, f"pure_{name}_score"),
        )


def _weighted_scores() -> Iterator[Metric]:
    fields = ("iou_score_max_iou", "iou_score_max_label", "map_score", "map50_score", "map75_score")
    for field in fields:
        yield _said(
            f"weighted_{field}",
            f"Weighted {field.removesuffix('_score').replace('_score', '').replace('_', ' ')}",
            f"V-Triune's {field} times its size penalty, {_POPULATION}.",
            where=_named(f"weighted_{field}"),
        )


COMPONENT_METRICS = (
    _said(
        "component",
        "Components",
        f"Mean of each component of the terms that count, {_POPULATION} and that have it.",
        where="kind = 'component'",
    ),
    _said(
        "weighted_component",
        "Weighted components",
        f"Mean of each component that counts times its weight, {_POPULATION} and that have it.",
        where="kind = 'weighted'",
    ),
    _said(
        "shadow_component",
        "Components of shadows",
        f"Mean of each component of verifiers that score beside and count for nothing, {_POPULATION}.",
        where="kind = 'shadow'",
    ),
    _said(
        "verifier_metric",
        "Metrics of verifiers",
        f"Mean of each further number that a verifier reports, {_POPULATION} and that have it.",
        where="kind = 'metric'",
        dashboards=(),
    ),
    *_boxes(),
    _said(
        "size_penalty",
        "Size penalty",
        f"Mean factor for a wrong number of boxes, 0.6 to the power of the difference, {_POPULATION}.",
        where=_named("size_penalty"),
    ),
    *_weighted_scores(),
    Metric(
        name="reflection_word",
        title="Reflection words",
        unit=Unit.WORDS,
        meaning="How often each reflection word occurs in the rollouts that a step trained on.",
        view="reflection_words",
        column="occurrences",
        per=("source", "word"),
        time="step",
        dashboards=("source",),
    ),
)

EVALUATION_METRICS = (
    Metric(
        name="evaluation",
        title="Held-out",
        unit=Unit.SCORE,
        meaning="Mean of the source's metric over the held-out answers that were scored, in complete rounds.",
        view="evaluation",
        column="value",
        time="last_created",
        where="is_complete",
        dashboards=("run", "source"),
    ),
    Metric(
        name="evaluation_standard_error",
        title="Held-out, standard error",
        unit=Unit.SCORE,
        meaning="Standard error of the held-out mean: sample standard deviation over the root of the scored answers.",
        view="evaluation",
        column="standard_error",
        time="last_created",
        where="is_complete",
        dashboards=("source",),
    ),
    Metric(
        name="evaluation_coverage",
        title="Held-out, coverage",
        unit=Unit.SHARE,
        meaning="Share of the held-out answers of a round that were scored; the others are left out of its mean.",
        view="evaluation",
        column="coverage",
        time="last_created",
        dashboards=("source",),
    ),
    Metric(
        name="evaluation_length",
        title="Held-out, length",
        unit=Unit.TOKENS,
        meaning="Mean tokens that a held-out answer sampled.",
        view="evaluation",
        column="mean_length",
        time="last_created",
        dashboards=("source",),
    ),
)

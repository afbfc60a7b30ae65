"""Which parameters are updated with which learning rate and weight decay."""

import pytest
from torch import nn

from tristream.config.learner import LearnerSection
from tristream.learner.training.parameter_groups import ParameterGroup, make_parameter_groups
from tristream.runtime.errors import UserError


def make_model() -> nn.Module:
    """A tower of two layers, a head, and a part that is frozen."""
    tower = nn.ModuleDict({"first": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    model = nn.ModuleDict({"tower": tower, "head": nn.Linear(2, 3), "frozen": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    return model


def groups_for(**settings: object) -> dict[tuple[str, ...], tuple[float, float]]:
    groups = make_parameter_groups(make_model().named_parameters(), LearnerSection.model_validate(settings))
    return {group.names: (group.learning_rate_scale, group.weight_decay) for group in groups}


def test_without_modules_all_that_is_trained_is_one_group() -> None:
    (names,) = groups_for(weight_decay=0.1)
    assert names == (
        "tower.first.weight", "tower.first.bias", "tower.norm.weight", "tower.norm.bias", "head.weight", "head.bias",
    )  # fmt: skip


def test_the_longest_prefix_counts_and_what_it_leaves_out_is_the_run_s() -> None:
    modules = [{"prefix": "tower.", "learning_rate_scale": 0.1}, {"prefix": "tower.norm.", "weight_decay": 0.5}]
    assert groups_for(weight_decay=0.2, modules=modules) == {
        ("tower.first.weight", "tower.first.bias"): (0.1, 0.2),
        ("tower.norm.weight", "tower.norm.bias"): (1.0, 0.5),
        ("head.weight", "head.bias"): (1.0, 0.2),
    }


def test_vectors_decay_only_if_they_are_told_to() -> None:
    assert groups_for(weight_decay=0.2, decays_vectors=False) == {
        ("tower.first.weight", "head.weight"): (1.0, 0.2),
        ("tower.first.bias", "tower.norm.weight", "tower.norm.bias", "head.bias"): (1.0, 0.0),
    }


@pytest.mark.parametrize("prefix", ["towers.", "frozen."])
def test_a_prefix_without_a_trained_parameter_is_refused(prefix: str) -> None:
    with pytest.raises(UserError, match="matches no parameter that is trained") as refused:
        groups_for(modules=[{"prefix": prefix}])
    assert "tower.first." in refused.value.remedy


def test_a_prefix_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match="is there twice"):
        groups_for(modules=[{"prefix": "head."}, {"prefix": "head."}])


def test_a_group_holds_the_parameters_of_its_names() -> None:
    model = make_model()
    groups: list[ParameterGroup] = make_parameter_groups(model.named_parameters(), LearnerSection())
    for group in groups:
        for name, parameter in zip(group.names, group.parameters, strict=True):
            assert model.get_parameter(name) is parameter

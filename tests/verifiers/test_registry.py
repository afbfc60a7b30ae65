"""The verifiers that exist, and who shares the rollouts."""

from typing import Any

import pytest

from tristream.config.parts import VerifierSettings
from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.verifiers.registry import VERIFIERS, by_versioned_name, select_verifiers
from tristream.verifiers.scorers.mathematics import MathVerifier
from tristream.verifiers.service.worker import group_name
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def test_the_registered_verifiers_are_the_built_in_ones() -> None:
    assert {name: verifier.version for name, verifier in VERIFIERS.items()} == BUILT_IN_VERSIONS
    assert all(verifier.name == name for name, verifier in VERIFIERS.items())


def test_no_names_select_all_verifiers() -> None:
    assert select_verifiers(()) == dict(VERIFIERS)
    assert list(select_verifiers(["ocr", "math"])) == ["math", "ocr"]


def test_an_unknown_name_is_a_user_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown verifier 'oracle'.*counting, detection, math, mathverify, ocr"):
        select_verifiers(["oracle"])


def settings_of(**verification: Any) -> VerifierSettings:
    run_file = RunFile.model_validate(
        {
            "run": {"id": "r", "steps": 1},
            "model": {"path": "m"},
            "sources": [{"name": "s", "train": "t"}],
            "verification": verification,
        }
    )
    return VerifierSettings.of(run_file)


def test_workers_that_serve_the_same_versions_share_a_group() -> None:
    settings = settings_of(verifiers=["ocr", "mathverify"])
    served = by_versioned_name(select_verifiers(settings.verification.verifiers).values())
    assert group_name(settings, served) == "tristream.r.verifier.math@1-ocr@1"
    assert group_name(settings, reversed(list(served))) == group_name(settings, served)


def test_a_worker_of_another_version_has_a_group_of_its_own() -> None:
    class NextMathVerifier(MathVerifier):
        version = "2"

    groups = [group_name(settings_of(), by_versioned_name([kind])) for kind in (MathVerifier, NextMathVerifier)]
    assert groups == ["tristream.r.verifier.math@1", "tristream.r.verifier.math@2"]

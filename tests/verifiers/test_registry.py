"""The built-in verifiers."""

from tristream.verifiers.registry import BUILT_INS
from tristream.wire.verifiers import BUILT_IN_VERSIONS


def test_the_registered_verifiers_are_the_built_in_ones() -> None:
    assert {name: definition.version for name, definition in BUILT_INS.items()} == BUILT_IN_VERSIONS
    assert all(definition.name == name for name, definition in BUILT_INS.items())

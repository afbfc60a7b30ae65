"""The source roots share one namespace, and generated code is up to date with what it is generated from."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("proto", "core", "producers", "verifiers", "learner", "monitoring", "deploy")


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_no_root_claims_the_namespace_for_itself(root: str) -> None:
    assert not (ROOT / root / "tristream" / "__init__.py").exists()


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_every_hand_written_package_says_that_it_is_typed(root: str) -> None:
    packages = [
        folder
        for folder in (ROOT / root / "tristream").iterdir()
        if folder.is_dir() and any(path for path in folder.glob("*.py"))
    ]
    assert packages
    assert all((package / "py.typed").exists() for package in packages)


def test_every_schema_has_its_generated_module() -> None:
    schemas = list((ROOT / "proto").rglob("*.proto"))
    assert len(schemas) == 12
    for schema in schemas:
        assert schema.with_name(f"{schema.stem}_pb2.py").exists()
        assert schema.with_name(f"{schema.stem}_pb2.pyi").exists()

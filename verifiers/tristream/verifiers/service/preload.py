"""Imported once by the fork server, so that every child starts with all of math-verify loaded and warm."""

from tristream.verifiers import registry
from tristream.verifiers.service import child
from tristream.verifiers.verifier import ScoringRequest

__all__ = ["child", "registry"]

registry.VERIFIERS["math"]().score(
    ScoringRequest(text=r"\boxed{\frac{1}{2}}", prompt_text="", ground_truth="0.5", step=1, total_steps=1)
)

"""Verifiers: what an answer is worth.

from tristream.verifiers import verifier

@verifier(version="1", components=["accuracy"])
def brief(rollout, *, max_chars: int = 400) -> float:
return float(len(rollout.text) <= max_chars)
"""

from tristream.verifiers.contract import Abstain, Image, Message, Rollout, Score, Unscorable
from tristream.verifiers.definition import Limits, VerifierDefinition, verifier

__all__ = ["Abstain", "Image", "Limits", "Message", "Rollout", "Score", "Unscorable", "VerifierDefinition", "verifier"]

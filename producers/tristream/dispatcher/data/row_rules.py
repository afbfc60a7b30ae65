"""What a sample must keep to beyond its schema, so that no part of the run meets a row that it cannot handle.

Pictures are looked at by their headers and checksums; no pixel of a large one is decoded, and no memory is spent.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from tristream.config.rollout import RolloutSection
from tristream.config.store import StoreSection
from tristream.config.verification import VerificationSection
from tristream.dispatcher.data.png_check import check_png
from tristream.dispatcher.data.samples import Sample
from tristream.dispatcher.data.vtriune_rows import RowError
from tristream.policy.image_header import ImageRefusedError, check_image
from tristream.wire.topics import MAX_RECORD_BYTES
from tristream.wire.verifiers import BUILT_IN_VERSIONS, pinned_versions

ROLLOUT_ROOM_BYTES = 2**20
"""What is kept free in a record beyond a prompt: its rollouts carry it too, with their tokens and their answer."""
REFERENCE_BYTES = 1024
"""What an image by reference takes in a record, at most."""
SMALLER_REMEDY = "give a smaller image, or raise the limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """The limits of one run."""

    max_image_pixels: int
    max_image_bytes: int
    inline_image_bytes: int
    verifiers: Collection[str] = tuple(BUILT_IN_VERSIONS)

    @classmethod
    def of(
        cls, rollout: RolloutSection, store: StoreSection, verification: VerificationSection = VerificationSection()
    ) -> Self:
        """The limits that a run file sets, and the verifiers that it has."""
        return cls(
            max_image_pixels=rollout.max_image_pixels,
            max_image_bytes=store.max_image_bytes,
            inline_image_bytes=rollout.inline_image_bytes,
            verifiers=tuple(pinned_versions(verification.plug_ins)),
        )

    def check(self, sample: Sample) -> None:
        """Check one sample.

        Raises:
            RowError: it breaks a rule.
        """
        self._check_verifiers(sample)
        num_bytes = 0
        for name, text in _texts(sample):
            try:
                num_bytes += len(text.encode())
            except UnicodeEncodeError:
                raise RowError(f"{name} is not Unicode: it has half a surrogate pair", "write it as UTF-8") from None
        for number, image in enumerate(sample.images):
            self._check_image(image.data, number)
            num_bytes += len(image.data) if len(image.data) <= self.inline_image_bytes else REFERENCE_BYTES
        if num_bytes > MAX_RECORD_BYTES - ROLLOUT_ROOM_BYTES:
            raise RowError(
                f"it has {num_bytes} bytes of text and inline images, {MAX_RECORD_BYTES - ROLLOUT_ROOM_BYTES} fit",
                "shorten the text, or lower rollout.inline_image_bytes",
            )

    def _check_verifiers(self, sample: Sample) -> None:
        for term in sample.terms:
            if term.verifier not in self.verifiers:
                raise RowError(
                    f"asks for the verifier '{term.verifier}', which does not exist",
                    f"use one of {', '.join(sorted(self.verifiers))}",
                )

    def _check_image(self, data: bytes, number: int) -> None:
        if len(data) > self.max_image_bytes:
            raise RowError(
                f"image {number} has {len(data)} bytes, store.max_image_bytes is {self.max_image_bytes}", SMALLER_REMEDY
            )
        try:
            width, height = check_image(data, self.max_image_pixels)
            check_png(data, width * height)
        except ImageRefusedError as error:
            raise RowError(f"image {number}: {error}", "correct the image, or leave the row out") from None


def _texts(sample: Sample) -> list[tuple[str, str]]:
    """All texts of a sample, by name."""
    return [
        ("extra_info.id", sample.sample_id),
        *(("prompt", text) for message in sample.messages for text in (message.role, message.content)),
        ("reward_model.ground_truth", sample.ground_truth),
        ("one of its further columns", sample.columns_json),
        *(("reward_model.verifier", term.verifier) for term in sample.terms),
        *(("reward_model.verifier_parm", term.params_json) for term in sample.terms),
    ]

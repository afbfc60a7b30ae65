"""The environment of a source that names none."""

from tristream.producer.environments.contract import Client, Sample


async def answer_once(client: Client, _sample: Sample) -> None:
    """The policy answers once."""
    await client.answer()

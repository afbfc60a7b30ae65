"""``python -m tristream.local`` is the ``tristream`` command."""

from tristream.local.cli import main

main()

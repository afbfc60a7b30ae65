"""``python -m tristream.cli`` is the ``tristream`` command."""

from tristream.cli.main import main

main()

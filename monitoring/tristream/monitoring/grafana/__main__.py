"""Write what is made from the registry into a checkout: ``python -m tristream.monitoring.grafana``."""

import sys
from pathlib import Path

from tristream.monitoring.grafana.files import write_files


def main() -> None:
    """Write dashboards, alert rules and documents into the repository in the folder given, or in this one."""
    if len(sys.argv) > 2:
        sys.exit("usage: python -m tristream.monitoring.grafana [REPOSITORY]")
    root = Path(sys.argv[1] if len(sys.argv) == 2 else ".")
    if not (root / "monitoring" / "grafana").is_dir():
        sys.exit(f"{root} is no checkout of tristream: it has no folder monitoring/grafana")
    write_files(root)


if __name__ == "__main__":
    main()

"""Write the dashboards: ``python -m tristream.monitoring.grafana monitoring/grafana/dashboards``."""

import json
import sys
from pathlib import Path

from tristream.monitoring.grafana.overview import build_overview


def render_overview() -> str:
    """The text of ``overview.json``."""
    return json.dumps(build_overview(), indent=2) + "\n"


def main() -> None:
    """Write ``overview.json`` into the folder given."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tristream.monitoring.grafana FOLDER")
    (Path(sys.argv[1]) / "overview.json").write_text(render_overview(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Links of Grafana: between the dashboards, from a point to its rollouts, from a rollout to the live page."""

from tristream.monitoring.grafana.panels import Json

RUN_UID = "tristream-run"
SOURCE_UID = "tristream-source"
PIPELINE_UID = "tristream-pipeline"
TAG = "tristream"

_RUN = "var-datasource=${datasource}&var-run=${run:percentencode}"


def between_dashboards() -> list[Json]:
    """The other dashboards, with the same run, sources and time range."""
    return [
        {
            "title": "tristream",
            "type": "dashboards",
            "tags": [TAG],
            "asDropdown": False,
            "includeVars": True,
            "keepTime": True,
            "targetBlank": False,
        }
    ]


def rollouts_of_point() -> Json:
    """From a point of a source's curve to the rollouts that the step trained on."""
    return {
        "title": "Rollouts of this step",
        "url": f"/d/{SOURCE_UID}?{_RUN}&var-source=${{__field.labels.source:percentencode}}"
        "&var-at=${__value.time}&${__url_time_range}",
    }


def rollout_on_page() -> Json:
    """From a row with ``number`` and ``rollout_index`` to the training rollout on the live page."""
    return {
        "title": "Show on the live page",
        "url": "${page:raw}#rollout=train/0/0/${__data.fields.number}/${__data.fields.rollout_index}",
        "targetBlank": True,
    }


def run_with_its_time() -> Json:
    """From a row with ``run``, ``from_ms`` and ``to_ms`` to that run, in the time range in which it happened."""
    return {
        "title": "Show this run in its time range",
        "url": f"/d/{RUN_UID}?var-datasource=${{datasource}}&var-run=${{__data.fields.run:percentencode}}"
        "&from=${__data.fields.from_ms}&to=${__data.fields.to_ms}",
    }

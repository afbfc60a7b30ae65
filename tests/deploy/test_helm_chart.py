"""The Helm chart: rendered by Helm's own engine, valid for Kubernetes, and understood by the parts it starts."""

from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmError

from tristream.cli.parts import PART_COMMANDS
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.wire.events import Part

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "tristream"
KUBERNETES_VERSIONS = ("1.27", "1.32", "1.37")


def make_values(**changes: Any) -> dict[str, Any]:
    """What must be given, for the digits example, and changes of whole sections."""
    overrides = {"model.path": "/inputs/model", "learner.learning_rate": 1e-6, "bus.replication_factor": 3}
    required = {
        "run": {"file": (ROOT / "examples/digits/run.toml").read_text(encoding="utf-8"), "overrides": overrides},
        "kafka": {"bootstrapServers": "kafka-0.kafka:9092,kafka-1.kafka:9092"},
        "clickhouse": {"existingSecret": "clickhouse"},
        "store": {"uri": "s3://bucket/digits", "existingSecret": "aws"},
        "inputs": {"existingClaim": "digits"},
    }
    return {**required, **changes}


def render(**changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects by kind and name."""
    with Chart.load(CHART) as chart:
        files = chart.render(make_values(**changes), name="one", namespace="training")
    objects = [
        item
        for path, text in files.items()
        if not path.endswith("NOTES.txt")
        for item in yaml.safe_load_all(text)
        if item
    ]
    return {(item["kind"], item["metadata"]["name"]): item for item in objects}


def pods(objects: dict[tuple[str, str], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod spec of each part."""
    return {
        name.removeprefix("one-"): item["spec"]["template"]["spec"]
        for (kind, name), item in objects.items()
        if kind in {"Deployment", "StatefulSet"}
    }


def load_settings(objects: dict[tuple[str, str], dict[str, Any]], part: Part, folder: Path) -> RunFile:
    """The run file as a part reads it in its pod."""
    path = folder / "run.toml"
    path.write_text(objects["ConfigMap", "one-run-file"]["data"]["run.toml"], encoding="utf-8")
    variables = pods(objects)[part]["containers"][0]["env"]
    secret = "http://reader:secret@clickhouse:8123/tristream"
    return load_run_file(path, environment={item["name"]: item.get("value", secret) for item in variables})


def all_changes() -> list[Any]:
    """Values that switch every branch of the templates."""
    gpu = {
        "gpus": 2,
        "ranks": 2,
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "checkpoints": {"storageClassName": "fast"},
    }
    folder_store = {"uri": "/store/digits", "existingClaim": "shared"}
    registry = {"registry": "registry.example.org/rl/", "tag": "1.2.3", "pullSecrets": ["registry"]}
    return [
        pytest.param({}, id="defaults"),
        pytest.param({"learner": gpu}, id="gpus"),
        pytest.param({"store": folder_store, "inputs": {}}, id="store in a folder"),
        pytest.param({"image": registry, "serviceAccountName": "trainer", "userId": 1_000_650_000}, id="registry"),
        pytest.param({"producer": {"replicas": 0}, "verifier": {"replicas": 7}}, id="replicas"),
    ]


@pytest.mark.parametrize("changes", all_changes())
@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_is_valid_for_kubernetes(changes: dict[str, Any], version: str) -> None:
    objects = render(**changes)
    assert len(objects) == 10
    for item in objects.values():
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("values", [None, make_values()], ids=["defaults", "given"])
def test_lint_finds_nothing(values: dict[str, Any] | None) -> None:
    report = helm_python.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert {message["error"] for message in report["messages"]} == {"icon is recommended"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kafka": {}}, "kafka.bootstrapServers is missing: give the brokers, such as kafka-0.kafka:9092"),
        ({"kafka": {"bootstrapServers": "kafka"}}, "at '/kafka/bootstrapServers': 'kafka' does not match"),
        ({"clickhouse": {}}, "clickhouse.existingSecret is missing: give the name of a Secret"),
        ({"store": {}}, "store.uri is missing: give an address such as s3://bucket/run"),
        ({"store": {"uri": "/store"}}, "give the claim that holds it in store.existingClaim"),
        ({"run": {}}, "run.file is missing: give the run file with --set-file run.file=run.toml"),
        ({"run": {"file": "[run"}}, "run.file is not TOML"),
        ({"run": {"file": "[run]\nsteps = 1"}}, "run.file has no run.id"),
        ({"run": {"file": "[run]\nid = 'a'", "overrides": {"run.id": "b"}}}, 'run.overrides has "run.id"'),
        ({"run": {"overrides": {"learner": 1}}}, "at '/run/overrides': additional properties 'learner' not allowed"),
        ({"learner": {"rank": 2}}, "at '/learner': additional properties 'rank' not allowed"),
        ({"producer": {"replicas": "two"}}, "at '/producer/replicas': got string, want integer"),
    ],
)
def test_wrong_values_are_refused_with_their_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HelmError) as refusal:
        render(**changes)
    assert message in str(refusal.value)


@pytest.mark.parametrize("part", Part)
def test_a_part_reads_the_run_file_with_the_addresses_of_the_chart(part: Part, tmp_path: Path) -> None:
    settings = load_settings(render(), part, tmp_path)
    assert settings.run.id == "digits"
    assert settings.bus.bootstrap_servers == "kafka-0.kafka:9092,kafka-1.kafka:9092"
    assert settings.bus.replication_factor == 3
    assert settings.store.address(settings.run.folder) == "s3://bucket/digits"
    assert settings.model.path == Path("/inputs/model")
    assert settings.learner.learning_rate == 1e-6
    assert settings.assembly.address == ("0.0.0.0:50051" if part is Part.ASSEMBLER else "one-assembler:50051")
    if part is Part.MONITOR:
        assert settings.monitoring.clickhouse_url == "http://reader:secret@clickhouse:8123/tristream"
        assert (settings.monitoring.http_host, settings.monitoring.http_port) == ("0.0.0.0", 8080)


@pytest.mark.parametrize("part", Part)
def test_the_probes_of_a_part_look_where_it_writes_its_status(part: Part, tmp_path: Path) -> None:
    objects = render()
    settings = load_settings(objects, part, tmp_path)
    container = pods(objects)[part]["containers"][0]
    for probe in ("startupProbe", "livenessProbe"):
        script, status = container[probe]["exec"]["command"][1:3]
        assert Path(status) == settings.run.folder.status / f"{part}.json"
        assert Path(script).name in objects["ConfigMap", "one-run-file"]["data"]
    kinds = {Part.ASSEMBLER: "grpc", Part.MONITOR: "httpGet"}
    assert kinds.get(part, "exec") in container["readinessProbe"]


@pytest.mark.parametrize("part", Part)
def test_a_part_runs_its_command_in_the_image_that_has_its_packages(part: Part) -> None:
    container = pods(render())[part]["containers"][0]
    command, option, path = container["args"]
    assert (command, option) == (PART_COMMANDS[part].name, "--run")
    assert container["image"] == f"tristream-{part}:0.1.0"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(Path(path).parent) in mounts


@pytest.mark.parametrize("part", Part)
def test_pods_are_restricted(part: Part) -> None:
    pod = pods(render())[part]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    context = pod["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["containers"][0]["resources"]["limits"]["memory"]


def test_the_values_of_the_readme_are_accepted() -> None:
    text = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    values = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    values["run"]["file"] = make_values()["run"]["file"]
    learner = pods(render(**values))["learner"]["containers"][0]
    assert learner["image"] == "registry.example.org/rl/tristream-learner:0.1.0"
    assert learner["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_parts_that_must_be_alone_are_never_two() -> None:
    objects = render()
    for part in ("dispatcher", "assembler", "monitor"):
        spec = objects["Deployment", f"one-{part}"]["spec"]
        assert (spec["replicas"], spec["strategy"]["type"]) == (1, "Recreate")
    assert objects["StatefulSet", "one-learner"]["spec"]["replicas"] == 1


def test_the_learner_keeps_its_run_folder_in_a_claim() -> None:
    learner = render()["StatefulSet", "one-learner"]["spec"]
    claim = learner["volumeClaimTemplates"][0]
    mounts = learner["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {"name": claim["metadata"]["name"], "mountPath": "/var/lib/tristream"} in mounts
    assert claim["metadata"]["name"] not in {volume["name"] for volume in learner["template"]["spec"]["volumes"]}


def test_ranks_and_gpus_of_the_learner() -> None:
    container = pods(render(learner={"gpus": 4, "ranks": 4}))["learner"]["containers"][0]
    torchrun = ["torchrun", "--standalone", "--nproc-per-node", "4", "--no-python", "--"]
    assert container["command"] == [*torchrun, "tristream"], "without the dashes it takes --run for its own --run-path"
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 4}
    assert "command" not in pods(render())["learner"]["containers"][0]


def test_services_reach_the_pods_they_name() -> None:
    objects = render(assembler={"port": 6000})
    for part, name in (("assembler", "grpc"), ("monitor", "http")):
        service = objects["Service", f"one-{part}"]["spec"]
        template = objects["Deployment", f"one-{part}"]["spec"]["template"]
        assert service["selector"].items() <= template["metadata"]["labels"].items()
        port = template["spec"]["containers"][0]["ports"][0]
        assert (service["ports"][0]["targetPort"], service["ports"][0]["port"]) == (name, port["containerPort"])
        assert port["name"] == name


def test_more_verifiers_restart_no_other_part() -> None:
    before, after = render(), render(verifier={"replicas": 5})
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {("Deployment", "one-verifier")}
    assert (
        before["Deployment", "one-verifier"]["spec"]["template"]
        == (after["Deployment", "one-verifier"]["spec"]["template"])
    )


def test_prometheus_finds_every_pod_by_annotations_or_by_a_pod_monitor(tmp_path: Path) -> None:
    objects = render()
    for part in Part:
        (template,) = [
            item["spec"]["template"]
            for (kind, name), item in objects.items()
            if kind in {"Deployment", "StatefulSet"} and name == f"one-{part}"
        ]
        annotations = template["metadata"]["annotations"]
        assert (annotations["prometheus.io/scrape"], annotations["prometheus.io/port"]) == ("true", "9464")
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports["metrics"] == load_settings(objects, part, tmp_path).metrics.port == 9464
    monitored = render(metrics={"podMonitor": True})
    endpoints = monitored["PodMonitor", "one-metrics"]["spec"]["podMetricsEndpoints"]
    assert endpoints == [{"port": "metrics"}]
    assert "prometheus.io" not in str(monitored)


def test_without_a_port_of_metrics_nothing_is_served(tmp_path: Path) -> None:
    objects = render(metrics={"port": 0})
    assert "prometheus.io" not in str(objects)
    assert load_settings(objects, Part.PRODUCER, tmp_path).metrics.port is None
    assert "ports" not in pods(objects)[Part.PRODUCER]["containers"][0]

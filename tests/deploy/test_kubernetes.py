"""The objects for Kubernetes and KServe, checked without a cluster."""

import kubernetes_validate
import pytest
import yaml
from deploy_checks import (
    IMAGE,
    KSERVE,
    KUBERNETES,
    METRICS_PATH,
    documents,
    exporter_files,
    find,
    is_hardened,
    parse_flags,
)

from benchmarks.capacity import Assumptions

pytestmark = pytest.mark.fast

KUSTOMIZATION = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
CORE = [*KUSTOMIZATION["resources"], "loader.yaml"]
DEPLOYMENT = find(KUBERNETES / "deployment.yaml", "Deployment")
TEMPLATE = DEPLOYMENT["spec"]["template"]
POD = TEMPLATE["spec"]
(CONTAINER,) = POD["containers"]
LABELS = TEMPLATE["metadata"]["labels"]
(RUNTIME,) = documents(KSERVE / "serving-runtime.yaml")
(INFERENCE_SERVICE,) = documents(KSERVE / "inference-service.yaml")
(KSERVE_CONTAINER,) = RUNTIME["spec"]["containers"]
# The oldest version with gRPC probes and this autoscaler; the newest with schemas.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", CORE)
def test_objects_follow_the_schemas_of_kubernetes(file, version):
    for document in documents(KUBERNETES / file):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_validation_finds_a_misspelt_field():
    wrong = DEPLOYMENT | {"spec": DEPLOYMENT["spec"] | {"minReadySecond": 5}}
    with pytest.raises(kubernetes_validate.ValidationError, match="minReadySecond"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_configuration_is_the_one_that_the_exporter_writes(tmp_path):
    threads = int(CONTAINER["resources"]["limits"]["cpu"])
    exported = exporter_files(
        tmp_path, name="photos", base_path="/models/photos", threads=threads
    )
    config = {path.name: path.read_text() for path in (KUBERNETES / "config").iterdir()}
    assert config == exported
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert sorted(generator["files"]) == sorted(f"config/{name}" for name in exported)


def test_the_server_finds_its_files_and_uses_its_processors():
    flags = parse_flags(CONTAINER["args"])
    mounts = {item["name"]: item for item in CONTAINER["volumeMounts"]}
    names = {path.name for path in (KUBERNETES / "config").iterdir()}
    for flag in ("model_config", "batching_parameters", "monitoring_config"):
        folder, _, name = flags[f"{flag}_file"].rpartition("/")
        assert folder == mounts["config"]["mountPath"]
        assert name in names
    assert mounts["models"]["mountPath"] == "/models"
    assert mounts["models"]["readOnly"] is mounts["config"]["readOnly"] is True
    cores = CONTAINER["resources"]["limits"]["cpu"]
    assert cores == flags["tensorflow_intra_op_parallelism"]
    assert cores == str(Assumptions().cores_per_replica)
    assert CONTAINER["resources"]["requests"] == CONTAINER["resources"]["limits"]
    volumes = {item["name"]: item for item in POD["volumes"]}
    assert set(volumes) == set(mounts)
    claim = find(KUBERNETES / "volume.yaml", "PersistentVolumeClaim")
    used = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim["metadata"]["name"] == used
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == generator["name"]


@pytest.mark.parametrize("container", [CONTAINER, KSERVE_CONTAINER])
def test_ports_and_probes_are_those_of_the_server(container):
    flags = parse_flags(container["args"])
    ports = [str(item["containerPort"]) for item in container["ports"]]
    assert ports == [flags["port"], flags["rest_api_port"]]
    probes = [value for name, value in container.items() if name.endswith("Probe")]
    assert probes
    for probe in probes:
        assert str(probe["grpc"]["port"]) == flags["port"]
        # server.cc reports the health of these two services.
        assert probe["grpc"].get("service", "") in ("", "PredictionService")
    # Without it the original server has no health service.
    assert flags["enable_grpc_healthcheck_service"] == "true"
    # The gRPC probes of Kubernetes do not support TLS.
    assert "ssl_config_file" not in flags


def test_probes_tolerate_a_slow_load_and_a_busy_server():
    def seconds(name):
        return CONTAINER[name]["periodSeconds"] * CONTAINER[name]["failureThreshold"]

    assert seconds("startupProbe") >= 300
    assert seconds("livenessProbe") > seconds("readinessProbe")


@pytest.mark.parametrize("container", [CONTAINER, KSERVE_CONTAINER])
def test_a_terminating_pod_keeps_answering_for_a_while(container):
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    # The second is the default of Kubernetes, which applies to the runtime of KServe.
    for period in (POD["terminationGracePeriodSeconds"], 30):
        assert 10 <= int(seconds) < period
    arguments = parse_flags(CONTAINER["args"])["grpc_channel_arguments"].split(",")
    ages = dict(argument.split("=") for argument in arguments)
    assert int(ages["grpc.max_connection_age_ms"]) == 300_000


def test_labels_and_port_names_select_the_pods():
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == LABELS
    ports = {item["name"] for item in CONTAINER["ports"]}
    services = documents(KUBERNETES / "service.yaml")
    for service in services:
        assert service["spec"]["selector"] == LABELS
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"]
            assert port["name"] in ports
    assert [item["spec"].get("clusterIP") for item in services] == [None, "None"]
    for spread in POD["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == LABELS
    budget = find(KUBERNETES / "autoscaling.yaml", "PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"] == LABELS
    assert budget["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_keeps_the_utilization_that_the_capacity_table_assumes():
    scaler = find(KUBERNETES / "autoscaling.yaml", "HorizontalPodAutoscaler")["spec"]
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        DEPLOYMENT["metadata"]["name"],
    )
    assert "replicas" not in DEPLOYMENT["spec"]
    (metric,) = scaler["metrics"]
    share = metric["resource"]["target"]["averageUtilization"]
    predictor = INFERENCE_SERVICE["spec"]["predictor"]
    assert share == predictor["scaleTarget"] == 100 * Assumptions().utilization
    assert scaler["minReplicas"] == predictor["minReplicas"] == Assumptions().zones


def test_no_container_has_privileges_that_it_does_not_need():
    loader = find(KUBERNETES / "loader.yaml", "Pod")["spec"]
    for pod in (POD, loader):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(is_hardened(item["securityContext"]) for item in pod["containers"])
    context = KSERVE_CONTAINER["securityContext"]
    assert is_hardened(context)
    assert context["runAsNonRoot"] is True
    namespace = find(KUBERNETES / "namespace.yaml", "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_all_containers_use_the_same_pinned_image():
    (image,) = KUSTOMIZATION["images"]
    assert f"{image['name']}:{image['newTag']}" == IMAGE
    assert CONTAINER["image"] == image["name"]
    (loader,) = find(KUBERNETES / "loader.yaml", "Pod")["spec"]["containers"]
    assert loader["image"] == KSERVE_CONTAINER["image"] == IMAGE


def test_the_service_monitor_selects_the_metrics():
    # Source: monitoring.coreos.com_servicemonitors.yaml of prometheus-operator.
    (monitor,) = documents(KUBERNETES / "service-monitor.yaml")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["kind"] == "ServiceMonitor"
    (endpoint,) = monitor["spec"]["endpoints"]
    known = {"port", "path", "interval", "scrapeTimeout", "metricRelabelings"}
    assert set(endpoint) == known
    assert endpoint["path"] == METRICS_PATH
    selected = [
        service
        for service in documents(KUBERNETES / "service.yaml")
        if service["metadata"].get("labels")
        == monitor["spec"]["selector"]["matchLabels"]
    ]
    # With two Services each pod would be scraped twice.
    (service,) = selected
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_kserve_accepts_the_runtime_and_uses_it_only_by_name():
    # Source: serving.kserve.io_servingruntimes.yaml of KServe 0.20.
    assert RUNTIME["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert RUNTIME["kind"] == "ServingRuntime"
    assert KSERVE_CONTAINER["name"] == "kserve-container"
    (format_,) = RUNTIME["spec"]["supportedModelFormats"]
    assert format_["autoSelect"] is False
    flags = parse_flags(KSERVE_CONTAINER["args"])
    assert flags["model_name"] == "{{.Name}}"
    assert flags["model_base_path"] == "/mnt/models"
    for flag in ("batching_parameters", "monitoring_config"):
        folder, _, name = flags[f"{flag}_file"].rpartition("/")
        assert folder == flags["model_base_path"]
        assert (KUBERNETES / "config" / name).exists()
    # KServe's service_reconciler.go recognizes gRPC by the name of the port.
    assert KSERVE_CONTAINER["ports"][0]["name"] == "h2c"


def test_kserve_scrapes_the_path_of_the_monitoring_file():
    annotations = RUNTIME["spec"]["annotations"]
    for prefix in ("prometheus.io", "prometheus.kserve.io"):
        assert annotations[f"{prefix}/path"] == METRICS_PATH
        port = parse_flags(KSERVE_CONTAINER["args"])["rest_api_port"]
        assert annotations[f"{prefix}/port"] == port


def test_the_inference_service_uses_the_runtime_and_the_volume():
    # Source: serving.kserve.io_inferenceservices.yaml of KServe 0.20.
    assert INFERENCE_SERVICE["apiVersion"] == "serving.kserve.io/v1beta1"
    assert INFERENCE_SERVICE["kind"] == "InferenceService"
    model = INFERENCE_SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    namespaces = {
        item["metadata"]["namespace"] for item in (RUNTIME, INFERENCE_SERVICE)
    }
    assert namespaces == {KUSTOMIZATION["namespace"]}
    (format_,) = RUNTIME["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {key: format_[key] for key in ("name", "version")}
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    claim = find(KUBERNETES / "volume.yaml", "PersistentVolumeClaim")
    name = INFERENCE_SERVICE["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim['metadata']['name']}/{name}"
    assert f'"/models/{name}"' in (KUBERNETES / "config/models.config").read_text()

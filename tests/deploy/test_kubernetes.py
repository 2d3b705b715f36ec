"""Kubernetes and KServe objects, read without a cluster."""

import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from deploy_checks import (
    IMAGE,
    KSERVE,
    KUBERNETES,
    METRICS_PATH,
    documents,
    find,
    flags,
    is_hardened,
    written_files,
)

from benchmarks.capacity import Assumptions

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
# The oldest has gRPC probes and this autoscaler; the newest that the schemas know.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", CORE)
def test_objects_follow_the_schemas_of_kubernetes(file, version):
    for document in documents(KUBERNETES / file):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_would_be_found():
    wrong = DEPLOYMENT | {"spec": DEPLOYMENT["spec"] | {"minReadySecond": 5}}
    with pytest.raises(kubernetes_validate.ValidationError, match="minReadySecond"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_puts_the_objects_together():
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rendered = list(yaml.safe_load_all(text))
    for each in rendered:
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)
        if each["kind"] != "Namespace":
            assert each["metadata"]["namespace"] == "bn-keras"
    objects = {each["kind"]: each for each in rendered}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == IMAGE
    (config,) = [each["configMap"] for each in pod["volumes"] if "configMap" in each]
    assert config["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert config["name"].startswith("serving-config-")


def test_the_configuration_is_what_the_exporter_writes(tmp_path):
    threads = int(CONTAINER["resources"]["limits"]["cpu"])
    written = written_files(
        tmp_path, name="photos", base_path="/models/photos", threads=threads
    )
    here = {path.name: path.read_text() for path in (KUBERNETES / "config").iterdir()}
    assert here == written
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert sorted(generator["files"]) == sorted(f"config/{name}" for name in written)


def test_the_server_finds_its_files_and_may_use_its_processors():
    found = flags(CONTAINER["args"])
    mounts = {each["name"]: each for each in CONTAINER["volumeMounts"]}
    names = {path.name for path in (KUBERNETES / "config").iterdir()}
    for flag in ("model_config", "batching_parameters", "monitoring_config"):
        folder, _, name = found[f"{flag}_file"].rpartition("/")
        assert folder == mounts["config"]["mountPath"]
        assert name in names
    assert mounts["models"]["mountPath"] == "/models"
    assert mounts["models"]["readOnly"] is mounts["config"]["readOnly"] is True
    cores = CONTAINER["resources"]["limits"]["cpu"]
    assert cores == found["tensorflow_intra_op_parallelism"]
    assert cores == str(Assumptions().cores_per_replica)
    assert CONTAINER["resources"]["requests"] == CONTAINER["resources"]["limits"]
    volumes = {each["name"]: each for each in POD["volumes"]}
    assert set(volumes) == set(mounts)
    claim = find(KUBERNETES / "volume.yaml", "PersistentVolumeClaim")
    used = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim["metadata"]["name"] == used
    (generator,) = KUSTOMIZATION["configMapGenerator"]
    assert volumes["config"]["configMap"]["name"] == generator["name"]


@pytest.mark.parametrize("container", [CONTAINER, KSERVE_CONTAINER])
def test_ports_and_probes_are_those_of_the_server(container):
    found = flags(container["args"])
    ports = [str(each["containerPort"]) for each in container["ports"]]
    assert ports == [found["port"], found["rest_api_port"]]
    probes = [value for name, value in container.items() if name.endswith("Probe")]
    assert probes
    for probe in probes:
        assert str(probe["grpc"]["port"]) == found["port"]
        # server.cc sets these two beside the server's own.
        assert probe["grpc"].get("service", "") in ("", "PredictionService")
    # The real server has no health service without it.
    assert found["enable_grpc_healthcheck_service"] == "true"
    # There is none with TLS that a probe of Kubernetes could ask.
    assert "ssl_config_file" not in found


def test_a_slow_load_is_not_a_failure_and_a_busy_server_is_not_killed_at_once():
    def seconds(name):
        return CONTAINER[name]["periodSeconds"] * CONTAINER[name]["failureThreshold"]

    assert seconds("startupProbe") >= 300
    assert seconds("livenessProbe") > seconds("readinessProbe")


@pytest.mark.parametrize("container", [CONTAINER, KSERVE_CONTAINER])
def test_a_pod_that_ends_goes_on_answering_first(container):
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    # The second is Kubernetes' default, which the runtime of KServe has.
    for period in (POD["terminationGracePeriodSeconds"], 30):
        assert 10 <= int(seconds) < period
    arguments = flags(CONTAINER["args"])["grpc_channel_arguments"].split(",")
    ages = dict(argument.split("=") for argument in arguments)
    assert int(ages["grpc.max_connection_age_ms"]) == 300_000


def test_labels_and_names_lead_to_the_pods():
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == LABELS
    ports = {each["name"] for each in CONTAINER["ports"]}
    services = documents(KUBERNETES / "service.yaml")
    for service in services:
        assert service["spec"]["selector"] == LABELS
        for port in service["spec"]["ports"]:
            assert port["targetPort"] == port["name"]
            assert port["name"] in ports
    assert [each["spec"].get("clusterIP") for each in services] == [None, "None"]
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


def test_no_container_may_do_what_it_need_not():
    loader = find(KUBERNETES / "loader.yaml", "Pod")["spec"]
    for pod in (POD, loader):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert all(is_hardened(each["securityContext"]) for each in pod["containers"])
    context = KSERVE_CONTAINER["securityContext"]
    assert is_hardened(context)
    assert context["runAsNonRoot"] is True
    namespace = find(KUBERNETES / "namespace.yaml", "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_image_is_the_same_pinned_one():
    (image,) = KUSTOMIZATION["images"]
    assert f"{image['name']}:{image['newTag']}" == IMAGE
    assert CONTAINER["image"] == image["name"]
    (loader,) = find(KUBERNETES / "loader.yaml", "Pod")["spec"]["containers"]
    assert loader["image"] == KSERVE_CONTAINER["image"] == IMAGE


def test_prometheus_operator_is_led_to_the_metrics():
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
    # One Service, or each pod would be counted twice.
    (service,) = selected
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_runtime_is_one_that_kserve_takes_and_takes_only_by_name():
    # Source: serving.kserve.io_servingruntimes.yaml of KServe 0.20.
    assert RUNTIME["apiVersion"] == "serving.kserve.io/v1alpha1"
    assert RUNTIME["kind"] == "ServingRuntime"
    assert KSERVE_CONTAINER["name"] == "kserve-container"
    (format_,) = RUNTIME["spec"]["supportedModelFormats"]
    assert format_["autoSelect"] is False
    found = flags(KSERVE_CONTAINER["args"])
    assert found["model_name"] == "{{.Name}}"
    assert found["model_base_path"] == "/mnt/models"
    for flag in ("batching_parameters", "monitoring_config"):
        folder, _, name = found[f"{flag}_file"].rpartition("/")
        assert folder == found["model_base_path"]
        assert (KUBERNETES / "config" / name).exists()
    # KServe's service_reconciler.go: gRPC is known by the port's name.
    assert KSERVE_CONTAINER["ports"][0]["name"] == "h2c"


def test_kserve_scrapes_the_path_of_the_monitoring_file():
    annotations = RUNTIME["spec"]["annotations"]
    for prefix in ("prometheus.io", "prometheus.kserve.io"):
        assert annotations[f"{prefix}/path"] == METRICS_PATH
        port = flags(KSERVE_CONTAINER["args"])["rest_api_port"]
        assert annotations[f"{prefix}/port"] == port


def test_the_inference_service_uses_the_runtime_and_the_volume():
    # Source: serving.kserve.io_inferenceservices.yaml of KServe 0.20.
    assert INFERENCE_SERVICE["apiVersion"] == "serving.kserve.io/v1beta1"
    assert INFERENCE_SERVICE["kind"] == "InferenceService"
    model = INFERENCE_SERVICE["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    namespaces = {
        each["metadata"]["namespace"] for each in (RUNTIME, INFERENCE_SERVICE)
    }
    assert namespaces == {KUSTOMIZATION["namespace"]}
    (format_,) = RUNTIME["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {key: format_[key] for key in ("name", "version")}
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    claim = find(KUBERNETES / "volume.yaml", "PersistentVolumeClaim")
    name = INFERENCE_SERVICE["metadata"]["name"]
    assert model["storageUri"] == f"pvc://{claim['metadata']['name']}/{name}"
    assert f'"/models/{name}"' in (KUBERNETES / "config/models.config").read_text()

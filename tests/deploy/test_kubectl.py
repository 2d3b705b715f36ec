"""The objects for Kubernetes as kubectl renders them."""

import shutil
import subprocess

import kubernetes_validate
import pytest
import yaml
from deploy_checks import IMAGE, KUBERNETES


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_renders_the_objects():
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rendered = list(yaml.safe_load_all(text))
    for item in rendered:
        kubernetes_validate.validate(
            item, kubernetes_validate.latest_version(), strict=True
        )
        if item["kind"] != "Namespace":
            assert item["metadata"]["namespace"] == "bn-keras"
    objects = {item["kind"]: item for item in rendered}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == IMAGE
    (config,) = [item["configMap"] for item in pod["volumes"] if "configMap" in item]
    assert config["name"] == objects["ConfigMap"]["metadata"]["name"]
    assert config["name"].startswith("serving-config-")

"""The alert rules that the documentation offers are rules, and speak of metrics that exist."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from paid import Stage

RULES = Path(__file__).parents[2] / "docs" / "operating" / "alerts.yml"
PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(
    PROMTOOL is None and not os.environ.get("CI"),
    reason="promtool is not installed: apt-get install prometheus",
)
def test_prometheus_takes_the_rules():
    assert PROMTOOL is not None, "CI has to install prometheus"
    done = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"SUCCESS: \d+ rules found", done.stdout), done.stdout


def test_every_metric_of_the_rules_exists(tmp_path):
    stage = Stage(tmp_path, "flask")
    assert stage.pay(stage.fund()).status == 200
    # Each kind of counter is there once it has counted.
    assert stage.pay(stage.fund(), b"status 500").status == 500
    assert stage.ask("POST", "/api/generate", b"{}").status == 402
    told = stage.ask("GET", "/metrics").body.decode()
    named = set(re.findall(r"\bagirails_paywall_\w+", RULES.read_text()))
    families = set(re.findall(r"^# TYPE (\w+)", told, re.M))
    assert named
    assert named <= families, named - families

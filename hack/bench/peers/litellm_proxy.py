"""LiteLLM's proxy as a peer: one worker, set up as its documentation recommends for production.

No database, so it keeps no virtual keys, budgets or spending and no record of a call: it does less
than the service it is compared with. What it is asked for is a master key. Its logs are off.
"""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.bench.peers.workflows import Peer, python_of
from tests.servers import free_port

VERSION = "1.97.0"
KEY = "sk-benchmark"
SETTINGS = "one worker, uvloop, master key, no database, no callbacks, logs off"
START_SECONDS = 120.0
# Newer versions of FastAPI took away what this version of LiteLLM calls.
_PEER = Peer("litellm_proxy.py", [f"litellm[proxy]=={VERSION}", "fastapi==0.136.3"], durable=False)
_CONFIG = """
model_list:
  - model_name: m
    litellm_params:
      model: openai/m
      api_base: {provider}
      api_key: none
      input_cost_per_token: 0.00000015
      output_cost_per_token: 0.0000006
litellm_settings:
  set_verbose: false
  request_timeout: 600
  num_retries: 2
general_settings:
  master_key: {key}
"""
_ENVIRONMENT = {
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "DISABLE_ADMIN_UI": "True",
}


@contextmanager
def litellm_proxy(provider: str, folder: Path) -> Iterator[tuple[str, int]]:
    """The proxy before a provider; gives its URL and its process id.

    Raises:
        TimeoutError: where it does not start; its log is in the folder.
    """
    program = python_of(_PEER).parent / "litellm"
    config, log = folder / "litellm.yaml", folder / "litellm.log"
    config.write_text(_CONFIG.format(provider=provider, key=KEY))
    port = free_port()
    command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [*command, "--num_workers", "1"],
            stdout=out,
            stderr=out,
            cwd=folder,
            env=os.environ | _ENVIRONMENT,
        ) as started,
    ):
        try:
            _wait_for(f"{url}/health/liveliness", log)
            yield url, started.pid
        finally:
            started.terminate()


def _wait_for(url: str, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"no answer from LiteLLM: {log.read_text()[-500:]}") from error
            time.sleep(0.2)

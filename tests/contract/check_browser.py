"""`watchGeneration` in a real Chromium, through the local gateway: CORS, and Realtime by supabase-js.

Run by `make test-browser`, since it needs a Chromium.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.parse import urlencode

import pytest
from tests.contract import next_application

from wearon_local.stack import Stack


@pytest.mark.timeout(600)
def test_page_follows_a_try_on_through_realtime_alone(typescript: Path, stack: Stack, tmp_path: Path) -> None:
    next_application.build(typescript, tmp_path)
    stack.openai.set_latency(1)
    stack.start_service("consumer")
    stack.start_service("generator")
    user = stack.app.create_user()
    job = stack.app.b2c_job(user)
    told = {"url": stack.gateway_url, "key": stack.anon_key, "token": stack.app.user_token(user)}
    with next_application.serve(stack) as url:
        page = f"{url}/watch#{urlencode({**told, 'session': str(job.session_id)})}"
        browser = subprocess.Popen(
            ["node", Path(__file__).parent / "next-app/watch.mjs", page],
            cwd=next_application.ROOT / "deploy/local/browser",
            stdout=subprocess.PIPE,
            text=True,
        )
        assert browser.stdout is not None
        try:
            # The page shows the session as it was found, and its socket is open: the rest comes by that.
            assert json.loads(browser.stdout.readline()) == {"subscribed": True, "seen": ["queued"]}
            stack.app.push(job)
            end = json.loads(browser.stdout.readline())
        finally:
            browser.kill()
            browser.wait()
    assert (end["seen"][0], end["seen"][-2:]) == ("queued", ["completed", "end"])
    assert "processing" in end["seen"]
    assert end["troubles"] == []
    assert end["sockets"] == [stack.gateway_url.replace("http", "ws")]

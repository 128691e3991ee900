"""A page written by `vmoe page`. It is served by its own web server and opened in a browser."""

from __future__ import annotations

import base64
import shutil
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM
from playwright.sync_api import Page
from web_server import web_server

from vmoe_runtime.profiles import Profile
from vmoe_tools.page.onnxruntime_web import VERSION, web_files
from vmoe_tools.program import main

MOST_MILLISECONDS = 120_000
"""Milliseconds that an answer may take on a busy machine."""

_WEB = Path(__file__).parents[2] / "build" / f"onnxruntime-web-{VERSION}"

_IS_ANSWERED = """word => !document.querySelector('[aria-busy=true]') &&
  [word, "can't be run"].some(each => document.getElementById('status').textContent.includes(each))"""

_RUN = """async ({ pixels, count, inputs }) => {
  const [{ run }, { readLayers }, { toInput }, facts] = await Promise.all([
    import('./session.js'), import('./routing.js'), import('./picture.js'),
    fetch('page.json').then(found => found.json())]);
  const bytes = Uint8Array.from(atob(pixels), letter => letter.charCodeAt(0));
  const size = bytes.length / count, answers = [];
  for (let i = 0; i < count; i++) {
    const image = toInput(bytes.subarray(i * size, (i + 1) * size), facts.input.dtype);
    const { outputs } = await run(image, inputs);
    const layers = readLayers(facts, outputs).map(({ expert, token }) => ({ expert: [...expert], token: [...token] }));
    answers.push({ logits: [...outputs.logits.data], layers });
  }
  return answers;
}"""
_DROP = """bytes => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([new Uint8Array(bytes)], 'a picture'));
  document.dispatchEvent(new DragEvent('drop', { dataTransfer: dropped }));
}"""


def web_folder() -> Path:
    """Return a folder with the files of onnxruntime-web. npm downloads them only once.

    If npm or a browser is missing, or if npm can't reach a registry, the test is skipped.
    """
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip("no Chromium or no npm here")
    if not _WEB.exists():
        if subprocess.run(["npm", "ping", "--fetch-retries=0"], capture_output=True, check=False).returncode:
            pytest.skip("npm reaches no registry")
        files, _ = web_files(None)
        _WEB.mkdir(parents=True)
        for name, content in files.items():
            (_WEB / name).write_bytes(content)
    return _WEB


def write_page(bundle: Path, folder: Path) -> Path:
    """Write a bundle's page into the new folder `folder`, and return `folder`."""
    assert main(["page", str(bundle), "-o", str(folder), "--onnxruntime-web", str(web_folder()), "-q"]) == 0
    return folder


def served(folder: Path, *, isolated: bool = True) -> AbstractContextManager[str]:
    """Serve a folder with `web_server`.

    If `isolated` is true, also send the headers that a page needs to use threads.
    """
    policies = {"Opener": "same-origin", "Embedder": "require-corp"} if isolated else {}
    return web_server(folder, {f"Cross-Origin-{name}-Policy": value for name, value in policies.items()})


def until_answered(page: Page, word: str = "first answer") -> str:
    """Wait until the page shows all results and its status contains `word`. Return the status."""
    page.wait_for_function(_IS_ANSWERED, arg=word, timeout=MOST_MILLISECONDS)
    return page.locator("#status").inner_text()


def drop(page: Page, picture: bytes) -> None:
    """Drop a picture on the page as if it were a file. `picture` is the file's content."""
    page.evaluate(_DROP, list(picture))


def answers_of(page: Page, images: np.ndarray, profile: Profile | None) -> list[dict[str, Any]]:
    """Run the page's scripts on images uint8[N,H,W,C] with the setting of `profile`. If it is None, use no setting.

    Return the `logits` and the routing `layers` of each call.
    """
    inputs = {} if profile is None else {name: value.tolist() for name, value in profile.inputs.items()}
    pixels = base64.b64encode(images.tobytes()).decode()
    found: list[dict[str, Any]] = page.evaluate(_RUN, {"pixels": pixels, "count": len(images), "inputs": inputs})
    return found

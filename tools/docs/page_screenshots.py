"""Take the pictures of docs/demo.md: the page after a prediction, on a wide and a narrow screen.

    .venv/page/bin/python tools/docs/page_screenshots.py BUNDLE [EXAMPLE]

in the environment of `make test-page`, with Debian's Chromium.
"""

import io
import shutil
import sys
from functools import partial
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from mtkd_cd.demo.served import open_served
from mtkd_cd.demo.server import PageServer

IMAGES = Path(__file__).parents[2] / 'docs' / 'images'
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking']
WIDTHS = (1280, 390)


def main() -> None:
    """Serve the bundle, predict an example, and write the pictures."""
    bundle, example = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
    server = PageServer(partial(open_served, bundle, device='cpu'), port=0).start()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which('chromium'), args=[*FLAGS, '--no-first-run']
            )
            for width in WIDTHS:
                page = browser.new_page(viewport=dict(width=width, height=844))
                page.set_default_timeout(120_000)
                page.goto(server.url)
                page.locator('#examples button').nth(example - 1).click()
                page.locator('#image-b [aria-label^=example]').first.wait_for()
                page.click('#predict')
                page.locator('#get-polygons:not([disabled])').wait_for()
                page.wait_for_timeout(1500)  # for the pictures in it
                page.mouse.move(0, 0)
                picture = Image.open(io.BytesIO(page.screenshot(full_page=True)))
                small = picture.convert('RGB').quantize(128, dither=Image.Dither.NONE)
                small.save(IMAGES / f'page_{width}.png', optimize=True)
                page.close()
            browser.close()
    finally:
        server.stop()


if __name__ == '__main__':
    main()

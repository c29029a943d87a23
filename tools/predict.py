"""``mtkd-cd predict`` as a file of the repository."""

from mtkd_cd.cli.common import run_tool
from mtkd_cd.cli.predict import main

if __name__ == '__main__':
    run_tool(main)

"""``mtkd-cd evaluate`` as a file of the repository."""

from mtkd_cd.cli.common import run_tool
from mtkd_cd.cli.evaluate import main

if __name__ == '__main__':
    run_tool(main)

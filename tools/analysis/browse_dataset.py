"""``mtkd-cd browse`` as a file of the repository."""

from mtkd_cd.cli.browse import main
from mtkd_cd.cli.common import run_tool

if __name__ == '__main__':
    run_tool(main)

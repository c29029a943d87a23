"""``mtkd-cd car-stats`` as a file of the repository."""

from mtkd_cd.cli.car_stats import main
from mtkd_cd.cli.common import run_tool

if __name__ == '__main__':
    run_tool(main)

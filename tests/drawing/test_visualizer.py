"""The visualiser whose figure waits until something is drawn."""

import json

import numpy as np
from mmengine.visualization import Visualizer

from mtkd_cd.drawing.visualizer import LateVisualizer
from mtkd_cd.engine.runner import LightRunner

PICTURE = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)


def drawn(visualizer: Visualizer) -> np.ndarray:
    visualizer.set_image(PICTURE)
    visualizer.draw_bboxes(np.array([[4, 5, 20, 25]]), edge_colors='r')
    return visualizer.get_image()


def test_it_draws_what_the_one_of_mmengine_draws():
    late = LateVisualizer('late')
    assert 'fig_save' not in vars(late)
    np.testing.assert_array_equal(drawn(late), drawn(Visualizer('usual')))
    assert late.dpi == late.fig_save.get_dpi()


def test_an_image_given_at_once_is_there():
    np.testing.assert_array_equal(LateVisualizer('image', PICTURE).get_image(), PICTURE)


def test_a_run_without_a_visualizer_of_its_own_writes_scalars_and_makes_no_figure(tmp_path):
    runner = object.__new__(LightRunner)
    runner._experiment_name, runner._log_dir = 'a run', str(tmp_path)

    visualizer = runner.build_visualizer()
    visualizer.add_scalar('mIoU', 12.5, step=3)
    visualizer.close()

    assert isinstance(visualizer, LateVisualizer)
    assert 'fig_save' not in vars(visualizer)
    (scalars,) = tmp_path.rglob('scalars.json')
    assert json.loads(scalars.read_text()) == {'mIoU': 12.5, 'step': 3}

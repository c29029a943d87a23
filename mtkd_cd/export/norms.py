"""Instance norms as OpenVINO computes them."""

from typing import Any

import numpy as np

from mtkd_cd.core.extras import require


def average_in_two_steps(model: Any) -> int:
    """Replace instance norms of an OpenVINO model by some that round less, in place.

    Its own add up all pixels of a map one after the other in float32: of 256 x 256, the last digits
    of 65,536 additions are lost. Averages of rows, and then of these averages, keep them.

    Args:
        model: An ``openvino.Model``.

    Returns:
        The number of norms replaced.
    """
    openvino = require('openvino', 'openvino', 'an OpenVINO model')
    ops = openvino.opset8
    norms = [node for node in model.get_ordered_ops() if _is_instance_norm(node)]
    for norm in norms:
        settings = norm.get_attributes()
        centred = ops.subtract(norm.input_value(0), _mean(ops, norm.input_value(0)))
        variance = _mean(ops, ops.multiply(centred, centred))
        inside = ops.add(variance, np.float32(settings['eps']))
        replacement = ops.divide(centred, ops.sqrt(inside))
        replacement.set_friendly_name(norm.get_friendly_name())
        openvino.utils.replace_node(norm, replacement)
    return len(norms)


def _mean(ops: Any, maps: Any) -> Any:
    """(N, C, 1, 1) of (N, C, H, W): along the rows, then down."""
    return ops.reduce_mean(ops.reduce_mean(maps, [3], True), [2], True)


def _is_instance_norm(node: Any) -> bool:
    """Whether a node normalises each map of (N, C, H, W) over its height and width."""
    if node.get_type_name() != 'MVN':
        return False
    settings = node.get_attributes()
    axes = node.input_value(1).get_node()
    return (
        node.get_output_partial_shape(0).rank == 4
        and settings['normalize_variance']
        and settings['eps_mode'].lower() == 'inside_sqrt'
        and axes.get_type_name() == 'Constant'
        and sorted(int(axis) % 4 for axis in axes.get_data()) == [2, 3]
    )

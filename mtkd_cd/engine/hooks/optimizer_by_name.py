"""Gives each parameter its own optimiser state when a run is resumed whose parameters come in
another order, for instance one of Open-CD's."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mtkd_cd.core.errors import UserError
from mtkd_cd.registry import HOOKS

_ADVICE = (
    'The weights load, the optimiser starts anew, with --cfg-options load_from=FILE instead of '
    '--resume, in a work dir of its own'
)


@HOOKS.register_module()
class OptimizerByNameHook(Hook):
    """Reorders the optimiser state of a checkpoint before it is loaded.

    torch numbers the parameters of an optimiser in the order of the modules and keeps no names. Two
    implementations of one model may order their modules otherwise. The file's own state dict tells
    the order in which its numbers were given.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Reorder ``checkpoint['optimizer']``.

        Raises:
            UserError: The states cannot be matched with the parameters.
        """
        if 'optimizer' not in checkpoint or not hasattr(runner.optim_wrapper, 'optimizer'):
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        optimizer = runner.optim_wrapper.optimizer
        by_id = {id(parameter): name for name, parameter in model.named_parameters()}
        own = [by_id[id(p)] for group in optimizer.param_groups for p in group['params']]
        checkpoint['optimizer'] = in_order_of(
            own,
            checkpoint['optimizer'],
            list(checkpoint['state_dict']),
            dict(model.named_parameters()),
        )


def in_order_of(
    own: Sequence[str],
    state: Mapping[str, Any],
    keys: Sequence[str],
    parameters: Mapping[str, nn.Parameter],
) -> Mapping[str, Any]:
    """An optimiser's state dict with its parameters in another order.

    Args:
        own: Names of the parameters in the order of the optimiser that is to load it.
        state: The state dict of a torch optimiser.
        keys: Keys of the state dict of the model that it was saved with, in their order.
        parameters: The model's parameters by name.

    Returns:
        ``state`` itself, where the orders agree.

    Raises:
        UserError: Other parameters, groups of several parameters in another order, or a state of
            another shape than its parameter.
    """
    numbers = [number for group in state['param_groups'] for number in group['params']]
    saved = [key.removeprefix('module.') for key in keys]
    every = [name for name in saved if name in parameters]
    # An optimiser has all parameters, the trainable ones, or those that this one has.
    choices = (
        every,
        [name for name in every if parameters[name].requires_grad],
        [name for name in every if name in set(own)],
    )
    given = next((names for names in choices if len(names) == len(numbers)), None)
    if given is None or not set(own) <= set(given):
        raise UserError(
            f'the optimiser state is of {len(numbers)} parameters, the optimiser has {len(own)}: '
            f'it cannot be resumed. {_ADVICE}'
        )
    number_of = dict(zip(given, numbers))
    _check_shapes(number_of, state['state'], parameters)
    if given == list(own):
        return state
    groups = state['param_groups']
    if len(groups) == len(given):  # a group for each parameter
        group_of = dict(zip(given, groups))
        groups = [dict(group_of[name], params=[index]) for index, name in enumerate(own)]
    elif len(groups) == 1:
        groups = [dict(groups[0], params=list(range(len(own))))]
    else:
        raise UserError(
            f'the optimiser state has {len(groups)} groups of parameters in another order than '
            f"this model's: it cannot be resumed. {_ADVICE}"
        )
    states = {
        index: state['state'][number_of[name]]
        for index, name in enumerate(own)
        if number_of[name] in state['state']
    }
    return dict(state, state=states, param_groups=groups)


def _check_shapes(
    number_of: Mapping[str, int],
    states: Mapping[int, Mapping[str, Any]],
    parameters: Mapping[str, nn.Parameter],
) -> None:
    for name, number in number_of.items():
        for entry, value in states.get(number, {}).items():
            scalar = not isinstance(value, Tensor) or value.ndim == 0
            if not scalar and value.shape != parameters[name].shape:
                raise UserError(
                    f'the optimiser state {entry} of {name} has the shape {tuple(value.shape)}, '
                    f'the parameter {tuple(parameters[name].shape)}: it cannot be resumed. '
                    f'{_ADVICE}'
                )

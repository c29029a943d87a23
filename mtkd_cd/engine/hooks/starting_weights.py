"""Weights that a run starts from, loaded as strictly as a distiller loads its student's."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mtkd_cd.core.checkpoint import load_weights
from mtkd_cd.registry import HOOKS


@HOOKS.register_module()
class StartingWeightsHook(Hook):
    """Loads a checkpoint file into the initialised model before the first step of a run.

    mmengine's own ``load_from`` takes what fits and goes on without the rest; here every key and
    shape must fit. Only the first convolutions of a model of three bands are widened to the bands
    of this one (:func:`~mtkd_cd.models.pretrained.widening`). The training tools give a config's
    ``load_from`` to this hook, unless they resume.

    Args:
        checkpoint: The file.
    """

    priority = 'VERY_HIGH'

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def before_train(self, runner: Runner) -> None:
        """Load. Raises a UserError when the file is missing, unreadable or of another model."""
        from mtkd_cd.models.pretrained import widening  # models cost seconds

        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_weights(model, self.checkpoint, adapt=widening(model))
        runner.logger.info(f'Starts from the weights in {self.checkpoint}')

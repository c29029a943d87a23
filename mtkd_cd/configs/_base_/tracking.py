# A second base of a config: curves in TensorBoard; pictures too, with
# default_hooks = dict(board=dict(type='ChangeBoardHook')) in the config.
# docs/visualization.md has the same from the command line, and WandB.
visualizer = dict(type='TrackingVisualizer', trackers=('tensorboard',))

"""Coming from Open-CD: its MTKD configs and checkpoints rewritten, its visualisers by name."""

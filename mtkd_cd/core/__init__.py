"""Ground floor: errors, files, the CAR and its partition, checkpoints. Imports nothing of the other
rooms."""

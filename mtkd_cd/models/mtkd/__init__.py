"""The method: cascade (O-P), distiller (MTKD), who teaches and who predicts, change maps."""

"""Trained models as ONNX, ``.pt2`` and OpenVINO files: written, compared with torch, run."""

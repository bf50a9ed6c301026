"""The ONNX backend: lowered graphs as ONNX models, run by ONNX Runtime."""

from flashir_onnx.backend import OnnxBackend

__all__ = ["OnnxBackend"]

"""The OpenVINO backend: lowered graphs as models of OpenVINO, which reads them as portable ONNX."""

from flashir_openvino.backend import OpenVinoBackend

__all__ = ["OpenVinoBackend"]

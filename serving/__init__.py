"""The service: ONNX engine, segment pipeline, HTTP interface; a CT in, masks out.

Knows models and imaging, and nothing of training: no torch on this floor.
"""

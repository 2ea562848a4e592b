"""Runs an ONNX file for `slimbit`, which sends a request as JSON and reads an answer as JSON.

Outputs go to .npy files in the folder of the request. What is missing on this machine is an answer,
not an error.
"""

import json
import os
import sys


def batches(request, np):
    """The images as [N, C, H, W] floats, `batch` at a time, with the number that count."""
    images = np.load(request["images"], mmap_mode="r")
    size = request["batch"]
    for start in range(0, len(images), size):
        chunk = np.array(images[start : start + size])
        count = len(chunk)
        if chunk.dtype == np.uint8:
            mean = np.array(request["mean"], np.float32)
            std = np.array(request["std"], np.float32)
            chunk = (chunk.astype(np.float32) / np.float32(255) - mean) / std
            chunk = chunk.transpose(0, 3, 1, 2)
        if count < size and request["fixed"]:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - count, axis=0)])
        if request["channels_last"]:
            chunk = chunk.transpose(0, 2, 3, 1)
        yield np.ascontiguousarray(chunk), count


def onnxruntime(request, np):
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    if request["runtime"] == "onnxruntime-exact":
        # Without VNNI, the default kernels saturate sums of two products at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    dtype = np.float16 if "float16" in image.type else np.float32
    run = lambda x: session.run(request["outputs"], {image.name: x.astype(dtype)})
    return ort.__version__, run


def openvino(request, np):
    import openvino as ov

    core = ov.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(request["model"]), "CPU", hints)
    ports = [model.output(name) for name in request["outputs"]]
    run = lambda x: [(found := model([x]))[port] for port in ports]
    return ov.__version__.split("-")[0], run


def answer(request):
    try:
        import numpy as np

        runtime = openvino if request["runtime"] == "openvino" else onnxruntime
        version, run = runtime(request, np)
    except ImportError as error:
        return {"missing": str(error)}
    rows = [[] for _ in request["outputs"]]
    for images, count in batches(request, np):
        for found, output in zip(rows, run(images)):
            found.append(np.asarray(output, np.float32)[:count].reshape(count, -1))
    files = []
    for index, found in enumerate(rows):
        path = os.path.join(request["folder"], f"{index}.npy")
        np.save(path, np.concatenate(found))
        files.append(path)
    return {"version": version, "files": files}


print(json.dumps(answer(json.load(sys.stdin))))

"""Runs an ONNX file for `slimbit`.

The working directory holds the request, `request.json`, the images, `images.npy`, and the model where
its name is relative. Outputs go there as .npy files, and the answer as `answer.json`: what other
packages print does not matter. What is missing on this machine is an answer, not an error.
"""

import json

FLOATS = {"float16": "float16", "double": "float64", "float64": "float64", "f64": "float64"}


def batches(request, np, wanted, size):
    """The images as the file takes them, `size` at a time, with the number that count. `wanted` is
    the runtime's word for the type of the file's input."""
    images = np.load("images.npy", mmap_mode="r")
    for start in range(0, len(images), size):
        chunk = np.array(images[start : start + size])
        count = len(chunk)
        if chunk.dtype == np.uint8:
            if not request["bytes"]:
                mean = np.array(request["mean"], np.float32)
                std = np.array(request["std"], np.float32)
                chunk = (chunk.astype(np.float32) / np.float32(255) - mean) / std
            chunk = chunk.transpose(0, 3, 1, 2)
        if count < size and request["fixed"]:
            chunk = np.concatenate([chunk, np.repeat(chunk[-1:], size - count, axis=0)])
        if request["channels_last"]:
            chunk = chunk.transpose(0, 2, 3, 1)
        if chunk.dtype != np.uint8:
            names = [name for word, name in FLOATS.items() if word in wanted]
            chunk = chunk.astype(names[0] if names else "float32")
        yield np.ascontiguousarray(chunk), count


def onnxruntime(request):
    import onnxruntime as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    if request["runtime"] == "onnxruntime-exact":
        # Without VNNI, the default kernels saturate sums of two products at 16 bits.
        options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(request["model"], options, providers=["CPUExecutionProvider"])
    # Old files list their weights among the inputs.
    weights = {weight.name for weight in session.get_overridable_initializers()}
    image = [value for value in session.get_inputs() if value.name not in weights][0]
    run = lambda x: session.run(request["outputs"], {image.name: x})
    return ort.__version__, image.type, run


def openvino(request):
    import openvino as ov

    core = ov.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    model = core.compile_model(core.read_model(request["model"]), "CPU", hints)
    ports = [model.output(name) for name in request["outputs"]]
    run = lambda x: [(found := model([x]))[port] for port in ports]
    return ov.__version__.split("-")[0], str(model.input(0).get_element_type()), run


def results(request, np, wanted, run, size):
    """One list of arrays `[images, elements]` for every output."""
    rows = [[] for _ in request["outputs"]]
    for images, count in batches(request, np, wanted, size):
        for found, output, last in zip(rows, run(images), request["outputs_last"]):
            output = np.asarray(output, np.float32)
            if last and output.ndim == 4:
                output = output.transpose(0, 3, 1, 2)
            found.append(output[:count].reshape(count, -1))
    return rows


def answer(request):
    runtime = openvino if request["runtime"] == "openvino" else onnxruntime
    try:
        import numpy as np

        __import__(runtime.__name__)
    except ImportError as error:
        return {"missing": str(error)}
    try:
        version, wanted, run = runtime(request)
        try:
            rows = results(request, np, wanted, run, request["batch"])
        except Exception:
            # Files that leave the number of images open may yet be written for one.
            if request["fixed"]:
                raise
            rows = results(request, np, wanted, run, 1)
        files = []
        for index, found in enumerate(rows):
            np.save(f"{index}.npy", np.concatenate(found))
            files.append(f"{index}.npy")
    except Exception as error:
        words = str(error).strip().splitlines() or ["it said nothing"]
        return {"failed": f"{type(error).__name__}: {words[0]}"[:600]}
    return {"version": version, "files": files}


with open("request.json", encoding="utf-8") as file:
    request = json.load(file)
text = json.dumps(answer(request))
with open("answer.json", "w", encoding="utf-8") as file:
    file.write(text)

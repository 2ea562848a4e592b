"""The Python peers behind the pipe of ../protocol.rs: MODEL INPUT SHAPE THREADS WHICH."""

import gc
import json
import sys
import time
from collections import Counter

import numpy as np


class OnnxRuntime:
    """One session on the CPU with every graph optimisation, and memory bound once: `Run` itself is
    what is timed."""

    def __init__(self, model, inputs, threads, exact):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if exact:
            # Without VNNI: unsigned weights, which do not saturate.
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self.version = onnxruntime.__version__
        name = self.session.get_inputs()[0].name
        output = self.session.get_outputs()[0].name
        self.bindings = []
        for values in inputs:
            binding = self.session.io_binding()
            binding.bind_cpu_input(name, values)
            binding.bind_output(output, "cpu")
            self.bindings.append(binding)

    def run(self, batch):
        self.session.run_with_iobinding(self.bindings[batch])

    def result(self, batch):
        return self.bindings[batch].copy_outputs_to_cpu()[0]

    def facts(self):
        return {"version": self.version}


class OpenVino:
    """One request with the latency hint. The driver pins the process, so the plugin need not."""

    def __init__(self, model, inputs, threads):
        import openvino

        core = openvino.Core()
        self.compiled = core.compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "ENABLE_CPU_PINNING": False,
            },
        )
        self.version = openvino.__version__
        # The requests borrow the memory.
        self.inputs, self.requests = inputs, []
        for values in inputs:
            request = self.compiled.create_infer_request()
            request.set_input_tensor(openvino.Tensor(values, shared_memory=True))
            self.requests.append(request)

    def run(self, batch):
        self.requests[batch].infer(share_outputs=True)

    def result(self, batch):
        return self.requests[batch].get_output_tensor(0).data

    def facts(self):
        kernels = Counter()
        for node in self.compiled.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            if facts["layerType"].value == "Convolution":
                kernels[facts["primitiveType"].value] += 1
        precision = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {"version": self.version, "float": precision, "convolutions": dict(kernels)}


def load(model, path, shape, threads, which):
    shape = [int(size) for size in shape.split("x")]
    inputs = list(np.fromfile(path, np.float32).reshape(-1, *shape))
    if which == "openvino":
        return OpenVino(model, inputs, int(threads))
    return OnnxRuntime(model, inputs, int(threads), which == "onnxruntime-exact")


def answer(engine, line):
    command, _, argument = line.strip().partition(" ")
    if command == "time":
        for _ in range(int(argument)):
            engine.run(0)
        start = time.perf_counter_ns()
        engine.run(0)
        return {"ns": time.perf_counter_ns() - start}
    batch, _, path = argument.partition(" ")
    engine.run(int(batch))
    values = np.ascontiguousarray(engine.result(int(batch)), dtype=np.float32)
    values.tofile(path)
    return {"length": values.size}


def say(answer):
    print(json.dumps(answer), flush=True)


def main():
    start = time.perf_counter_ns()
    try:
        engine = load(*sys.argv[1:])
        load_ns = time.perf_counter_ns() - start
        engine.run(0)
        ready = {"load_ns": load_ns, "first_ns": time.perf_counter_ns() - start}
        facts = engine.facts()
    except Exception as error:  # Whatever a peer raises belongs in the report.
        say({"error": str(error) or type(error).__name__})
        return
    # A collection in the middle of an inference would be counted against the peer.
    gc.collect()
    gc.disable()
    say({"ready": ready, "facts": facts})
    for line in sys.stdin:
        try:
            say(answer(engine, line))
        except Exception as error:
            say({"error": str(error) or type(error).__name__})


main()

"""A gRPC client in Python: messages compiled by protoc into a scratch folder, calls made by method name.

Needs Debian's python3-grpcio and python3-protobuf, so that a client which shares no code with Octavo talks to it.
"""

import atexit
import importlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import grpc

SOURCE_DIR = pathlib.Path(__file__).resolve().parents[2]
MESSAGES = [f"octavo/v1/{name}" for name in ["types", "model", "recipe", "plan", "task", "artifact", "job", "cluster",
                                             "engine", "inference", "compare", "token_log"]] + ["compat/rpc_status", "compat/reflection_v1"]


def _compile():
    out = tempfile.mkdtemp(prefix="octavo-proto-")
    subprocess.run(["protoc", "-I", str(SOURCE_DIR / "proto"), "--python_out", out]
                   + [f"{name}.proto" for name in MESSAGES], cwd=SOURCE_DIR / "proto", check=True)
    atexit.register(shutil.rmtree, out)
    sys.path.insert(0, out)
    return {name.split("/")[-1]: importlib.import_module(name.replace("/", ".") + "_pb2") for name in MESSAGES}


pb = _compile()


class Client:
    """Calls one address with one token."""

    def __init__(self, address, token=""):
        self.channel = grpc.insecure_channel(address)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []

    def unary(self, method, request, response_type, timeout_s=60):
        call = self.channel.unary_unary(f"/octavo.v1.{method}", request_serializer=type(request).SerializeToString,
                                        response_deserializer=response_type.FromString)
        return call(request, timeout=timeout_s, metadata=self.metadata)

    def stream(self, method, request, response_type, timeout_s=60):
        call = self.channel.unary_stream(f"/octavo.v1.{method}", request_serializer=type(request).SerializeToString,
                                         response_deserializer=response_type.FromString)
        return call(request, timeout=timeout_s, metadata=self.metadata)

    # ---- the calls the tests make ---------------------------------------------------------------------

    def load(self, folder, tensor_parallel=1, timeout_s=60, cache_type="CACHE_AUTO", **limits):
        """Loads a folder and returns its ModelInfo once it is ready."""
        request = pb["inference"].LoadModelRequest(model_dir=str(folder), tensor_parallel=tensor_parallel,
                                                   cache_type=cache_type, **limits)
        for info in self.stream("Models/Load", request, pb["inference"].ModelInfo, timeout_s):
            pass
        assert info.state == "ready", info
        return info

    def unload(self, model_id):
        self.unary("Models/Unload", pb["inference"].UnloadModelRequest(model_id=model_id),
                   pb["inference"].UnloadModelResponse)

    def models(self):
        return self.unary("Models/List", pb["inference"].ListModelsRequest(),
                          pb["inference"].ListModelsResponse).models

    def workers(self):
        return self.unary("Cluster/ListWorkers", pb["cluster"].ListWorkersRequest(),
                          pb["cluster"].ListWorkersResponse).workers

    def score(self, ids, chunk=0):
        request = pb["inference"].ScoreRequest(token_ids={"ids": ids}, want_digests=True, chunk=chunk)
        return self.unary("Inference/Score", request, pb["inference"].ScoreResponse)

    def generate(self, timeout_s=60, **fields):
        """The stream of GenerateResponse."""
        return self.stream("Inference/Generate", pb["inference"].GenerateRequest(**fields),
                           pb["inference"].GenerateResponse, timeout_s)

    def resume(self, request_id, from_index, **fields):
        """The rest of an earlier request's stream, after so many tokens of each choice."""
        return self.generate(request_id=request_id, from_index=from_index, **fields)

    def complete(self, **fields):
        """Runs Generate to its end: (text, token ids, Finished)."""
        text, ids, finished = "", [], None
        for response in self.generate(**fields):
            if response.HasField("delta"):
                text += response.delta.text
                ids += [token.id for token in response.delta.tokens]
            else:
                finished = response.finished
        assert finished is not None, "the stream ended without Finished"
        return text, ids, finished

    def health(self, service=""):
        """The stream of grpc.health.v1 Watch as numbers (1: serving)."""
        request = b"" if not service else b"\x0a" + bytes([len(service)]) + service.encode()
        call = self.channel.unary_stream("/grpc.health.v1.Health/Watch")
        return (int(data[1]) if data else 0 for data in call(request, timeout=30, metadata=self.metadata))

    def reflected(self, **question):
        """What server reflection answers to one question, as grpcurl asks it."""
        pb_reflection = pb["reflection_v1"]
        call = self.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                          request_serializer=pb_reflection.ServerReflectionRequest.SerializeToString,
                                          response_deserializer=pb_reflection.ServerReflectionResponse.FromString)
        return next(call(iter([pb_reflection.ServerReflectionRequest(**question)]), timeout=30,
                         metadata=self.metadata))


def reason_of(error):
    """The reason in an RpcError's google.rpc.ErrorInfo; '' if it carries none of ours."""
    status = pb["rpc_status"].RpcStatus()
    status.ParseFromString(dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b""))
    for detail in status.details:
        info = pb["rpc_status"].ErrorInfo()
        if detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo" and info.ParseFromString(detail.value):
            if info.domain == "octavo":
                return info.reason
    return ""


def scrape(address):
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as response:
        return response.read().decode()


def total(text, metric, *labels):
    """Of all series of a metric that have these labels."""
    series = re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", text, re.M)
    return sum(float(value) for found, value in series if all(label in found for label in labels))


def cluster_record(state_dir):
    with open(os.path.join(state_dir, "cluster.json"), encoding="utf-8") as file:
        return json.load(file)

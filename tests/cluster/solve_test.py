"""GPTQ and SparseGPT, smoothed and not, on real processes: layer after layer, the same bytes whatever the cluster, whatever dies."""

import json
import pathlib
import re
import struct
import subprocess
import sys
import unittest

import job_case
from harness import digests

SHAPE = ["--layers", 3, "--hidden", 128, "--intermediate", 192, "--heads", 8, "--kv-heads", 2, "--vocab", 512, "--seed", 7]
MIXTURE = ["--family", "mixtral", "--experts", 4, "--experts-per-token", 2, *SHAPE]
CALIBRATION = ["--calibration", "random", "--samples", 40, "--sample-length", 64, "--seed", 3]


def tensors(folder):
    """name -> (dtype, shape, bytes)"""
    data = (folder / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[8 + size + entry["data_offsets"][0]:8 + size + entry["data_offsets"][1]])
            for name, entry in header.items()}


def skew_routers(path):
    """Of six experts' routers: rows 1 and 3 become minus rows 0 and 2, so that two of these four win nearly always; 4 and 5 shrink."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    for name, entry in json.loads(data[8:8 + size]).items():
        if not name.endswith("block_sparse_moe.gate.weight"):
            continue
        begin, row = 8 + size + entry["data_offsets"][0], 2 * entry["shape"][1]
        for pair in (0, 2):
            for at in range(0, row, 2):
                low, high = data[begin + pair * row + at:begin + pair * row + at + 2]
                data[begin + (pair + 1) * row + at:begin + (pair + 1) * row + at + 2] = bytes((low, high ^ 0x80))
        for expert, halvings in ((4, 2), (5, 7)):
            for at in range(begin + expert * row, begin + (expert + 1) * row, 2):
                bits = int.from_bytes(data[at:at + 2], "little")
                data[at:at + 2] = (bits - (halvings << 7) if bits & 0x7F80 > halvings << 7 else 0).to_bytes(2, "little")
    path.write_bytes(data)


class SolveTest(job_case.JobCase):

    synth = MIXTURE

    @classmethod
    def job_args(cls, source=None):
        return ["quantize", source or cls.source, "--recipe", "int8-smoothquant-gptq", *CALIBRATION]

    def recipe(self, name, weight, token, solver, calibration="{samples: 512, sample_length: 2048}", rest=""):
        path = self.scratch / f"{name}.yaml"
        path.write_text(f"""
name: {name}
rules:
  - weight: {weight}
    input: {token}
    solver: {solver}
calibration: {calibration}
{rest}""")
        return path

    def solved(self, out):
        return json.loads((out / "octavo_report.json").read_text())["calibration"]["solved"]

    def test_report_says_what_every_hessian_came_to(self):
        solved = self.solved(self.reference)
        self.assertEqual(len(solved), 3 * (2 + 2 * 4))  # attention's input and output; input and inner of every expert
        for entry in solved:
            self.assertGreater(entry["tokens"], 0)
            if entry["rows_rounded_to_nearest"] == entry["rows"]:
                continue
            self.assertLess(entry["output_error_solved"], entry["output_error_rounded"])
        dense = [entry for entry in solved if "expert" not in entry]
        self.assertTrue(all(entry["tokens"] == 40 * 64 for entry in dense))
        self.assertTrue(all(entry["dampings_tried"] == [0.01] for entry in dense))
        self.assertLess(sum(entry["output_error_solved"] for entry in dense),
                        0.9 * sum(entry["output_error_rounded"] for entry in dense))

    def test_smoothing_keeps_the_function(self):
        """Norms and routers are the source's times powers of two; the report says which."""
        before, after = tensors(self.source), tensors(self.reference)
        changed = {name for name in before if "_proj" not in name and ".w" not in name.removesuffix(".weight")
                   and before[name] != after.get(name)}
        self.assertTrue(changed)
        for name in changed:
            self.assertRegex(name, r"model\.layers\.\d\.(input_layernorm|post_attention_layernorm|block_sparse_moe\.gate)\.weight")
            for x, y in zip(struct.iter_unpack("<H", before[name][2]), struct.iter_unpack("<H", after[name][2])):
                self.assertEqual(x[0] & 0x807F, y[0] & 0x807F, f"{name}: more than an exponent changed")
        smoothed = json.loads((self.reference / "octavo_report.json").read_text())["calibration"]["smoothed"]
        self.assertEqual([(entry["layer"], entry["point"]) for entry in smoothed],
                         [(layer, point) for layer in range(3) for point in ("attention_input", "mlp_input")])
        self.assertTrue(all(entry["exponent_min"] <= entry["exponent_max"] for entry in smoothed))
        self.assertGreater(sum(entry["channels_changed"] for entry in smoothed), 0)

    def test_experts_with_few_tokens(self):
        """Routers send nearly all tokens to four experts: Hessians of the others are shrunk, or too small for anything."""
        source = self.scratch / "skewed"
        self.run_ok("synth", "--family", "mixtral", "--experts", 6, "--experts-per-token", 2, *SHAPE, "--out", source)
        skew_routers(source / "model.safetensors")
        recipe = self.recipe("natural", "{type: int8, scale: channel}", "{type: int8, scale: token}", "{type: gptq}",
                             "{samples: 512, sample_length: 2048, coverage: natural}")
        outs = [self.scratch / f"few-by-{workers}" for workers in (1, 3)]
        for workers, out in zip((1, 3), outs):
            self.run_ok("quantize", source, "--recipe", recipe, *CALIBRATION, "--out", out, "--workers", workers)
        self.assertEqual(digests(outs[0]), digests(outs[1]))
        report = json.loads((outs[0] / "octavo_report.json").read_text())["calibration"]
        channels = {"mlp_input": 128, "mlp_inner": 192}
        found = {"own": 0, "shrunk": 0, "rounded": 0}
        for entry in report["solved"]:
            if "expert" not in entry:
                self.assertNotIn("shrinkage", entry)
                continue
            enough, tokens = 4 * channels[entry["point"]], entry["tokens"]
            kind = "own" if tokens >= enough else "shrunk" if tokens >= enough // 16 else "rounded"
            found[kind] += 1
            self.assertEqual(entry["shrinkage"], 1 - tokens / enough if kind == "shrunk" else 0)
            self.assertEqual(entry["mean_tokens"] > 0, kind == "shrunk")
            self.assertEqual(entry["dampings_tried"] == [], kind == "rounded")
        print(f"experts' Hessians: {found}")
        self.assertTrue(all(found.values()), found)
        self.assertEqual(report["solved_experts"],
                         {"hessians": 3 * 2 * 6, "shrunk": found["shrunk"], "rounded": found["rounded"]})
        self.assertIn(f"{found['shrunk']} shrunk, {found['rounded']} left", (outs[0] / "octavo_report.html").read_text())

    def test_every_family_and_solver(self):
        """Dense families too, with other formats, and what a layer sees as the source gives it."""
        fp8, int8 = ("{type: fp8, scale: channel}", "{type: fp8, scale: token}"), ("{type: int8, scale: channel}", "{type: int8, scale: token}")
        block = ("{type: fp8, scale: block, block: [128, 128]}", "{type: fp8, scale: group, group: 128}")
        one = ("{type: fp8, scale: tensor}", "{type: fp8, scale: token}")
        static = ("{type: fp8, scale: tensor}", "{type: fp8, scale: tensor}")
        for family, (weight, token), solver, calibration in [
                ("llama", fp8, "{type: gptq}", "{samples: 9, sample_length: 9}"),
                ("llama", one, "{type: gptq, order: natural}", "{samples: 9, sample_length: 9}"),
                ("qwen2", fp8, "{type: sparsegpt}", "{samples: 9, sample_length: 9}"),
                ("qwen3", block, "{type: gptq, damping: 0.1}", "{samples: 9, sample_length: 9}"),
                ("mistral", int8, "{type: gptq}", "{samples: 9, sample_length: 9, propagate: source}"),
                ("mixtral", static, "{type: gptq}", "{observer: absmax, samples: 9, sample_length: 9}"),
                ("dbrx", static, "{type: gptq}", "{observer: mse, samples: 9, sample_length: 9}")]:
            with self.subTest(family=family, solver=solver, weight=weight):
                source = self.scratch / f"source-{family}"
                if not source.exists():
                    experts = ["--experts", 4, "--experts-per-token", 2] if family in ("mixtral", "dbrx") else []
                    self.run_ok("synth", "--family", family, *experts, *SHAPE, "--out", source)
                rest = "kv_cache: {type: fp8, scale: tensor}\ndialect: fp8\n" if family == "dbrx" else ""
                recipe = self.recipe(f"r-{family}", weight, token, solver, calibration, rest)
                outs = [self.scratch / f"{family}-by-{workers}" for workers in (1, 3)]
                for workers, out in zip((1, 3), outs):
                    self.run_ok("quantize", source, "--recipe", recipe, *CALIBRATION, "--out", out, "--workers", workers, "--overwrite")
                self.assertEqual(digests(outs[0]), digests(outs[1]))
                for entry in self.solved(outs[0]):
                    self.assertLess(entry["output_error_solved"], entry["output_error_rounded"])
                if "sparsegpt" in solver:
                    self.assert_two_of_four_are_zero(outs[0])
                verdict = self.run_ok("doctor", outs[0], "--json").result()
                self.assertEqual(verdict["verdicts"]["octavo"], "loads", verdict)

    def test_half_of_the_codes_are_stored(self):
        """As sparse-24-bitmask: the same for any number of workers, and the same model as in full; nothing where it is not 2:4."""
        source = self.scratch / "source-bitmask"
        self.run_ok("synth", "--family", "llama", *SHAPE, "--out", source)
        outs = {}
        for storage in ("dense", "sparse-24-bitmask"):
            recipe = self.recipe(storage, "{type: fp8, scale: channel}", "{type: fp8, scale: token}", "{type: sparsegpt}",
                                 "{samples: 9, sample_length: 9}", f"storage: {storage}\n")
            for workers in (1, 2):
                outs[storage, workers] = self.scratch / f"{storage}-by-{workers}"
                self.run_ok("quantize", source, "--recipe", recipe, *CALIBRATION, "--out", outs[storage, workers],
                            "--workers", workers)
            self.assertEqual(digests(outs[storage, 1]), digests(outs[storage, 2]))
        full, packed = outs["dense", 1], outs["sparse-24-bitmask", 1]
        self.run_ok("convert-dialect", packed, self.out, "--dialect", "compressed-tensors")
        self.assertEqual(tensors(full), tensors(self.out))
        codes = [name.removesuffix(".weight") for name, entry in tensors(full).items() if entry[0] == "F8_E4M3"]
        stored = tensors(packed)
        self.assertEqual(len(codes), 3 * 7)
        for name in codes:
            rows, columns = tensors(full)[name + ".weight"][1]
            self.assertEqual(stored[name + ".compressed"][:2], ("F8_E4M3", [rows, columns // 2]))
            self.assertEqual(stored[name + ".bitmask"][:2], ("U8", [rows, columns // 8]))
            self.assertEqual(stored[name + ".shape"], ("I64", [2, 1], struct.pack("<qq", rows, columns)))
        ids = self.scratch / "ids.jsonl"
        ids.write_text(json.dumps({"ids": [(7 * i) % 512 for i in range(64)]}) + "\n")
        losses = [self.run_ok("eval", "ppl", out, "--ids", ids, "--window", 64, "--json").result() for out in (full, packed)]
        self.assertEqual(losses[0]["nll"], losses[1]["nll"])
        verdict = self.run_ok("doctor", packed, "--json").result()
        self.assertEqual(verdict["verdicts"]["octavo"], "loads", verdict)
        self.assertEqual(verdict["verdicts"]["vllm"], "refused", verdict)
        run = self.run_fails(65, "quantize", source, "--recipe", self.dense_bitmask(), "--out", self.scratch / "never")
        self.assertIn("more than two of the four differ from zero", run.stderr())
        self.assertFalse((self.scratch / "never").exists())

    def dense_bitmask(self):
        """A recipe that prunes nothing and stores two of four."""
        path = self.scratch / "unpruned.yaml"
        path.write_text("name: unpruned\nstorage: sparse-24-bitmask\nrules:\n  - weight: {type: fp8, scale: channel}\n"
                        "    input: {type: fp8, scale: token}\n")
        return path

    def assert_two_of_four_are_zero(self, out):
        codes = {name: entry for name, entry in tensors(out).items() if entry[0] == "F8_E4M3"}
        self.assertEqual(len(codes), 3 * 7)
        for name, (_, _, data) in codes.items():
            for at in range(0, len(data), 4):
                self.assertGreaterEqual(sum(byte & 0x7F == 0 for byte in data[at:at + 4]), 2, f"{name} at {at}")

    def test_compat_is_the_same_by_any_number_of_workers_and_resumes(self):
        source, outs = self.scratch / "source-compat", [self.scratch / f"compat-by-{workers}" for workers in (1, 3)]
        self.run_ok("synth", "--family", "llama", *SHAPE, "--out", source)
        args = ["quantize", source, "--recipe", "int8-w8a8-gptq", "--compat", "llm-compressor-0.1", *CALIBRATION]
        self.run_ok(*args, "--out", outs[0], "--workers", 1)
        self.kill_when(lambda: any(pathlib.Path(f"{outs[1]}.octavo").glob("*.calibration/hessian-1-*")), *args, "--workers", 3,
                       out=outs[1])
        self.run_ok(*args, "--out", outs[1], "--workers", 3)
        self.assertEqual(digests(outs[0]), digests(outs[1]))
        report = json.loads((outs[0] / "octavo_report.json").read_text())
        self.assertEqual(report["recipe"]["compat"], "llm-compressor-0.1")
        self.assertTrue(any(0x80 in data for kind, _, data in tensors(outs[0]).values() if kind == "I8"))  # codes of -128
        self.assertTrue(all(entry["rows_rounded_to_nearest"] == 0 for entry in report["calibration"]["solved"]))
        run = self.run_fails(65, "quantize", source, "--recipe", "fp8-gptq", "--compat", "llm-compressor-0.1", *CALIBRATION,
                             "--out", self.out)
        self.assertIn("GPTQ to INT8", run.stderr())

    def test_what_layers_see_changes_the_codes(self):
        """Layer 0 is the same; the layers above see quantized layers below, or the source's."""
        recipe = self.recipe("source", "{type: int8, scale: channel}", "{type: int8, scale: token}", "{type: gptq}",
                             "{samples: 512, sample_length: 2048, propagate: source}", "smooth: {strength: 0.65}\n")
        self.run_ok("quantize", self.source, "--recipe", recipe, *CALIBRATION, "--out", self.out)
        ours, other = tensors(self.reference), tensors(self.out)
        self.assertEqual(ours.keys(), other.keys())
        differ = {name for name in ours if ours[name] != other[name]}
        self.assertTrue(all(".layers.0." not in name for name in differ), differ)
        self.assertTrue(any(".layers.1." in name for name in differ))
        self.assertTrue(any(".layers.2." in name for name in differ))

    def test_broken_files_of_hessians_are_made_again(self):
        """They are not synced: after a power cut a file may have its size and not its bytes."""
        staging = pathlib.Path(f"{self.out}.octavo")
        self.kill_when(lambda: any(staging.glob("*.calibration/hessian-1-*")), *self.job_args(), "--workers", 2, out=self.out)
        broken = [path for path in staging.glob("*.calibration/*") if re.fullmatch(r"(kept|hessian|fold)-[-0-9]+", path.name)]
        self.assertTrue(broken)
        for path in broken:
            data = bytearray(path.read_bytes())
            data[:64] = bytes(64)
            path.write_bytes(data)
        self.resume()

    def test_plan_of_a_published_shape_needs_headers_only(self):
        script = pathlib.Path(__file__).parents[1] / "bench/header_only.py"
        folder = self.scratch / "mixtral"
        subprocess.run([sys.executable, script, "mixtral-8x22b", folder], check=True)
        plan = json.loads(self.run_ok("plan", folder, "--recipe", "int8-w8a8-gptq", "--calibration", "random",
                                      "--samples", 128, "--sample-length", 512, "--json").stdout())
        # The factor of w2's Hessian, 16,384 channels in F64, is 2 GiB; a Hessian 1 GiB.
        self.assertGreater(plan["memory_bytes_min"], 3 << 30)
        self.assertLess(plan["memory_bytes_min"], 5 << 30)

    def test_too_little_memory_is_said_before_anything_is_solved(self):
        wide = self.scratch / "wide"
        self.run_ok("synth", "--family", "llama", "--layers", 1, "--hidden", 128, "--intermediate", 4096, "--heads", 8,
                    "--vocab", 512, "--out", wide)
        run = self.run_fails(78, "quantize", wide, "--recipe", "fp8-gptq", "--calibration", "random", "--samples", 2,
                             "--sample-length", 8, "--out", self.out, "--memory", "256MiB")
        self.assertIn("--memory", run.stderr())
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()

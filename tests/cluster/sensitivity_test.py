"""octavo sensitivity on real processes: the same figures whatever the cluster, whatever dies; what hurts comes first; recipes keep
to their budgets."""

import json
import shutil
import struct
import unittest

import job_case
from harness import digests

SHAPE = ["--layers", 4, "--hidden", 128, "--intermediate", 192, "--heads", 8, "--kv-heads", 2, "--vocab", 512, "--seed", 7]
MIXTURE = ["--family", "mixtral", "--experts", 4, "--experts-per-token", 2, *SHAPE]
CALIBRATION = ["--calibration", "random", "--samples", 40, "--sample-length", 64, "--seed", 3]
RESULT = "octavo_sensitivity.json"


def header_of(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return data, 8 + size, header


def plant(folder, name):
    """One weight of every row becomes 64 times as large: under one scale the others of the row lose six bits."""
    path = folder / "model.safetensors"
    data, start, header = header_of(path)
    entry = header[name]
    assert entry["dtype"] == "BF16"
    rows, columns = entry["shape"]
    data = bytearray(data)
    for row in range(rows):
        at = start + entry["data_offsets"][0] + 2 * (row * columns + row % columns)
        bits = struct.unpack("<H", data[at:at + 2])[0]
        data[at:at + 2] = struct.pack("<H", bits + (6 << 7))
    path.write_bytes(data)


class SensitivityTest(job_case.JobCase):

    synth = MIXTURE
    out_flag = "--work"
    published = RESULT

    @classmethod
    def job_args(cls, source=None):
        return ["sensitivity", source or cls.source, "--recipe", "fp8-dynamic", *CALIBRATION]

    def sensitivity(self, source, *more):
        return self.run_ok("sensitivity", source, *CALIBRATION, *more, "--json").result()

    def planted(self):
        source = self.scratch / "planted"
        if not source.exists():
            self.run_ok("synth", "--family", "llama", *SHAPE, "--out", source)
            plant(source, "model.layers.2.mlp.down_proj.weight")
        return source

    def quantized(self, source, recipe, out):
        """name -> dtype of what the recipe makes, and the bytes of the folder without what is said about it."""
        self.run_ok("quantize", source, "--recipe", recipe, "--out", out)
        self.run_ok("inspect", out)
        verdict = self.run_ok("doctor", out, "--json").result()
        self.assertEqual(verdict["verdicts"]["octavo"], "loads", verdict)
        about = {"octavo_manifest.json", "octavo_report.json", "octavo_report.html", "README.md"}
        size = sum(path.stat().st_size for path in out.iterdir() if path.name not in about)
        return {name: entry["dtype"] for name, entry in header_of(out / "model.safetensors")[2].items()}, size

    def test_every_group_is_there_and_measured_once(self):
        result = json.loads((self.reference / RESULT).read_text())
        groups = result["groups"]
        self.assertEqual(sorted((group["layer"], group["point"]) for group in groups),
                         sorted((layer, point) for layer in range(4)
                                for point in ("attention_input", "attention_output", "mlp_input", "mlp_inner")))
        self.assertEqual(result["tokens"], 40 * 64)
        self.assertAlmostEqual(result["whole_error"], sum(group["error"] for group in groups))
        self.assertEqual(groups, sorted(groups, key=lambda group: -group["error"]))
        for group in groups:
            self.assertGreater(group["error"], group["weights_error"])
            self.assertGreater(group["inputs_error"], 0)
            experts = [tensor for tensor in group["tensors"] if "expert" in tensor]
            self.assertEqual(len(experts), {"mlp_input": 8, "mlp_inner": 4}.get(group["point"], 0))
            if not experts:
                self.assertTrue(all(tensor["tokens"] == 40 * 64 for tensor in group["tensors"]))

    def test_measured_once_budgets_cost_nothing(self):
        """The same folder answers again, and refuses to be taken for another measurement."""
        before = digests(self.reference)
        again = self.run_ok(*self.quantize_args("--budget-error", 0.7, "--json", out=self.reference)).result()
        self.assertLessEqual(again["mix"]["share_left"], 0.7)
        self.assertEqual(digests(self.reference), before)
        other = self.run_fails(65, "sensitivity", self.source, "--calibration", "random", "--samples", 3, "--sample-length", 9,
                               "--work", self.reference)
        self.assertIn("other", other.stderr())

    def test_planted_outliers_come_first_and_error_budget_is_kept(self):
        source = self.planted()
        recipe = self.scratch / "error.yaml"
        result = self.sensitivity(source, "--recipe", "int8-dynamic", "--work", self.out, "--budget-error", 0.6, "--out", recipe)
        first, second = result["groups"][:2]
        self.assertEqual((first["layer"], first["point"]), (2, "mlp_inner"))
        self.assertGreater(first["weights_error"], 5 * second["weights_error"])
        mix = result["mix"]
        kept = {(group["layer"], group["point"]) for group in mix["kept"]}
        self.assertIn((2, "mlp_inner"), kept)
        left = sum(group["error"] for group in result["groups"] if (group["layer"], group["point"]) not in kept)
        self.assertLessEqual(left, 0.6 * result["whole_error"])
        self.assertAlmostEqual(left, mix["error_left"])
        dtypes, size = self.quantized(source, recipe, self.scratch / "error")
        self.assertEqual(size, mix["output_bytes"])
        for group in result["groups"]:
            for tensor in group["tensors"]:
                wanted = "BF16" if (group["layer"], group["point"]) in kept else "I8"
                self.assertEqual(dtypes[tensor["tensor"]], wanted, tensor["tensor"])

    def test_byte_budget_is_kept(self):
        source = self.planted()
        recipe = self.scratch / "bytes.yaml"
        work = ("--recipe", "fp8-dynamic", "--work", self.out)
        least = self.sensitivity(source, *work, "--budget-error", 1)["mix"]
        self.assertEqual(least["kept"], [])
        self.assertEqual(least["output_bytes"], least["quantized_bytes"])
        before = None
        for more in (0, 40_000, 120_000, 1 << 20):
            budget = least["output_bytes"] + more
            mix = self.sensitivity(source, *work, "--budget-bytes", budget, "--out", recipe)["mix"]
            self.assertLessEqual(mix["output_bytes"], budget)
            if before is not None:
                self.assertLess(mix["share_left"], before)
            before = mix["share_left"]
            _, size = self.quantized(source, recipe, self.scratch / "bytes")
            self.assertEqual(size, mix["output_bytes"])
            shutil.rmtree(self.scratch / "bytes")
        self.assertEqual(before, 0)  # room for all of it
        self.run_fails(64, "sensitivity", source, *CALIBRATION, *work, "--budget-bytes", least["output_bytes"] - 1)

    def test_mixture_keeps_all_experts_of_a_layer(self):
        recipe = self.scratch / "mixture.yaml"
        result = self.run_ok(*self.quantize_args("--budget-error", 0.3, "--out", recipe, "--json")).result()
        kept = {(group["layer"], group["point"]) for group in result["mix"]["kept"]}
        for layer in range(4):
            self.assertEqual((layer, "mlp_input") in kept, (layer, "mlp_inner") in kept)
        dtypes, _ = self.quantized(self.source, recipe, self.scratch / "mixture")
        for group in result["groups"]:
            for tensor in group["tensors"]:
                wanted = "BF16" if (group["layer"], group["point"]) in kept else "F8_E4M3"
                self.assertEqual(dtypes[tensor["tensor"]], wanted, tensor["tensor"])

    def test_flags_that_make_no_sense_are_refused(self):
        for flags in (["--out", "x.yaml"], ["--budget-error", 0.5, "--budget-bytes", "1GiB"], ["--coordinator", "127.0.0.1:1"]):
            self.run_fails(64, "sensitivity", self.source, *CALIBRATION, *flags)
        self.run_fails(64, "sensitivity", self.source)


if __name__ == "__main__":
    unittest.main()

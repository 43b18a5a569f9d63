"""The report inside a quantized folder: its figures are those of the files, recomputed here from their bytes alone; the same
on any cluster; its page is whole and loads nothing."""

import html.parser
import json
import math
import pathlib
import struct
import unittest

from harness import ClusterTest, Run, digests

SYNTH = ["--family", "mixtral", "--layers", 3, "--hidden", 128, "--intermediate", 192, "--heads", 8, "--kv-heads", 2,
         "--experts", 4, "--experts-per-token", 2, "--vocab", 512, "--seed", 11]
SAMPLES, LENGTH = 12, 50
CALIBRATION = ["--calibration", "random", "--samples", SAMPLES, "--sample-length", LENGTH, "--seed", 5]
ZERO_TENSOR, ZERO_ROW = "model.layers.1.self_attn.o_proj.weight", 5
VOID_TAGS = {"meta", "br", "rect", "line", "circle", "polyline"}


def fp8(code):
    """The value of an E4M3FN code."""
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    return sign * (math.ldexp(mantissa, -9) if exponent == 0 else math.ldexp(8 + mantissa, exponent - 10))


FP8 = [fp8(code) for code in range(256)]


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


class Folder:
    """Tensors of a checkpoint of one file, as lists of numbers."""

    def __init__(self, path):
        self.path = pathlib.Path(path) / "model.safetensors"
        with open(self.path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            self.header = json.loads(file.read(size))
        self.header.pop("__metadata__", None)
        self.begin = 8 + size

    def shape(self, name):
        return self.header[name]["shape"]

    def offset(self, name):
        return self.begin + self.header[name]["data_offsets"][0]

    def bytes(self, name):
        begin, end = self.header[name]["data_offsets"]
        with open(self.path, "rb") as file:
            file.seek(self.begin + begin)
            return file.read(end - begin)

    def values(self, name):
        data, dtype = self.bytes(name), self.header[name]["dtype"]
        if dtype == "BF16":
            return [struct.unpack("<f", b"\0\0" + data[i:i + 2])[0] for i in range(0, len(data), 2)]
        if dtype == "F32":
            return list(struct.unpack(f"<{len(data) // 4}f", data))
        if dtype == "I8":
            return list(struct.unpack(f"<{len(data)}b", data))
        assert dtype == "F8_E4M3", dtype
        return [FP8[code] for code in data]


class Page(html.parser.HTMLParser):
    """Checks that elements nest, and collects what the page says."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        if tag not in VOID_TAGS or tag in ("rect", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open[-3:])
        self.open.pop()

    def handle_data(self, data):
        self.text.append(data)


class ReportTest(ClusterTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.source = cls.scratch / "source"
        cls.make("synth", *SYNTH, "--out", cls.source)
        source = Folder(cls.source)
        row_bytes = 2 * source.shape(ZERO_TENSOR)[1]
        with open(source.path, "r+b") as file:
            file.seek(source.offset(ZERO_TENSOR) + ZERO_ROW * row_bytes)
            file.write(bytes(row_bytes))
        cls.static = cls.scratch / "static"
        cls.make("quantize", cls.source, "--recipe", "fp8-static-kv", *CALIBRATION, "--out", cls.static, "--workers", 1)
        cls.report = json.loads((cls.static / "octavo_report.json").read_text())

    @classmethod
    def make(cls, *args):
        run = Run(*args)
        assert run.wait() == 0, run.stderr()

    def check_tensor(self, folder, entry, largest):
        """Every figure of one tensor, from the values of source and output."""
        name = entry["tensor"]
        source, output = Folder(self.source), Folder(folder)
        wanted, codes = source.values(name), output.values(name)
        scales = output.values(name.replace(".weight", ".weight_scale"))
        columns = source.shape(name)[1]
        squared_error = squared_source = largest_error = 0.0
        for i, (value, code) in enumerate(zip(wanted, codes, strict=True)):
            scale = scales[0] if len(scales) == 1 else scales[i // columns]
            error = f32(code * scale - value)
            squared_error += error * error
            squared_source += value * value
            largest_error = max(largest_error, abs(error))
        self.assertEqual(entry["elements"], len(wanted))
        self.assertAlmostEqual(entry["squared_error"] / squared_error, 1, delta=1e-12)
        self.assertAlmostEqual(entry["relative_error"], math.sqrt(squared_error / squared_source), delta=1e-12)
        self.assertEqual(entry["max_abs_error"], largest_error)
        self.assertEqual(entry["saturated"], sum(abs(code) == largest for code in codes))
        groups = [wanted] if len(scales) == 1 else [wanted[i:i + columns] for i in range(0, len(wanted), columns)]
        seen = [scale for scale, group in zip(scales, groups, strict=True) if any(group)]
        self.assertEqual(entry["zero_groups"], len(scales) - len(seen))
        self.assertEqual((entry["scale_min"], entry["scale_max"]), (min(seen), max(seen)))

    def test_weights_are_as_the_files_say(self):
        entries = self.report["weights"]["by_tensor"]
        self.assertEqual(len(entries), 3 * (4 + 3 * 4))
        for entry in entries[:8]:
            with self.subTest(tensor=entry["tensor"]):
                self.assertEqual(entry["format"], {"type": "fp8", "scale": "tensor"})
                self.check_tensor(self.static, entry, 448)

    def test_channels_and_a_row_of_zeros(self):
        out = self.scratch / "int8"
        self.run_ok("quantize", self.source, "--recipe", "int8-dynamic", "--out", out)
        report = json.loads((out / "octavo_report.json").read_text())
        self.assertIsNone(report["calibration"])
        zero = [entry for entry in report["weights"]["by_tensor"] if entry["zero_groups"]]
        self.assertEqual([entry["tensor"] for entry in zero], [ZERO_TENSOR])
        self.assertEqual(Folder(out).values(ZERO_TENSOR.replace(".weight", ".weight_scale"))[ZERO_ROW], 1)
        self.assertLess(zero[0]["scale_max"], 1)
        self.check_tensor(out, zero[0], 127)
        self.assertIn("Groups of weights that are all zero: 1.", (out / "README.md").read_text())

    def test_groups_add_up(self):
        weights = self.report["weights"]
        for key in ("by_role", "by_layer", "by_role_and_layer"):
            for group in weights[key]:
                members = [entry for entry in weights["by_tensor"]
                           if all(entry[name] == group[name] for name in ("role", "layer") if name in group)]
                self.assertEqual(group["tensors"], len(members))
                self.assertEqual(group["saturated"], sum(entry["saturated"] for entry in members))
                error, source = (sum(entry[name] for entry in members) for name in ("squared_error", "squared_source"))
                self.assertAlmostEqual(group["relative_error"], math.sqrt(error / source), delta=1e-12)
                self.assertEqual(group["scale_max"], max(entry["scale_max"] for entry in members))
                self.assertEqual(group["scale_min"], min(entry["scale_min"] for entry in members))
            self.assertEqual(sum(group["tensors"] for group in weights[key]), weights["tensors"])
        by_error = sorted((entry["relative_error"] for entry in weights["by_tensor"]), reverse=True)
        self.assertEqual([entry["relative_error"] for entry in weights["worst"]], by_error[:10])
        output = Folder(self.static)
        kept = [name for name, spec in output.header.items() if spec["dtype"] == "BF16"]
        self.assertEqual(weights["kept_tensors"], len(kept))

    def test_calibration_is_what_the_files_hold(self):
        output, calibration = Folder(self.static), self.report["calibration"]
        self.assertEqual((calibration["samples"], calibration["tokens"]), (SAMPLES, SAMPLES * LENGTH))
        held = {name for name in output.header if name.endswith(("input_scale", ".k_scale", ".v_scale"))}
        named = [tensor for entry in calibration["scales"] for tensor in entry["tensors"]]
        self.assertEqual(sorted(named), sorted(held))
        for entry in calibration["scales"]:
            for tensor in entry["tensors"]:
                self.assertEqual(set(output.values(tensor)), {entry["scale"]})
            self.assertEqual(entry["scale"], f32(entry["amax"] / 448))
        points = {entry["point"] for entry in calibration["scales"]}
        self.assertEqual(points, {"attention_input", "attention_output", "mlp_input", "mlp_inner", "key", "value"})
        for layer in range(3):
            experts = [entry for entry in calibration["experts"] if entry["layer"] == layer]
            self.assertEqual([entry["expert"] for entry in experts], [0, 1, 2, 3])
            self.assertEqual(sum(entry["routed"] for entry in experts), 2 * SAMPLES * LENGTH)
            self.assertTrue(all(entry["rows"] >= entry["routed"] for entry in experts))
            of_all = {entry["point"]: entry["amax"] for entry in calibration["scales"] if entry["layer"] == layer}
            self.assertEqual(max(entry["input_amax"] for entry in experts), of_all["mlp_input"])
            self.assertEqual(max(entry["inner_amax"] for entry in experts), of_all["mlp_inner"])

    def test_the_same_bytes_from_three_workers(self):
        out = self.scratch / "three"
        self.run_ok("quantize", self.source, "--recipe", "fp8-static-kv", *CALIBRATION, "--out", out, "--workers", 3)
        found = digests(out)
        self.assertIn("octavo_report.json", found)
        self.assertIn("octavo_report.html", found)
        self.assertEqual(found, digests(self.static))

    def test_digests_are_those_of_the_manifest(self):
        manifest = json.loads((self.static / "octavo_manifest.json").read_text())
        listed = {file["name"]: file for file in manifest["files"]}
        self.assertEqual(set(listed) | {"octavo_manifest.json"}, {path.name for path in self.static.iterdir()})
        provenance = self.report["provenance"]
        for file in provenance["outputs"]:
            digest = listed[file["file"]]["digest"]
            self.assertEqual(file["digest"], f"{int(digest['high']):016x}{int(digest['low']):016x}")
            self.assertEqual(file["bytes"], (self.static / file["file"]).stat().st_size)
        self.assertEqual([file["file"] for file in provenance["sources"]], ["model.safetensors"])
        self.run_ok("doctor", self.static)

    def test_page_is_whole_and_loads_nothing(self):
        text = (self.static / "octavo_report.html").read_text()
        page = Page(text)
        said = " ".join(page.text)
        self.assertEqual(page.tags.count("svg"), 1 + 1 + 6 + 1)
        # Layers by role (4 of attention, 3 of experts), and layers by expert.
        self.assertEqual(page.tags.count("rect"), 3 * 7 + 3 * 4)
        self.assertFalse({"script", "link", "img", "iframe", "object"} & set(page.tags))
        self.assertFalse({"src", "href", "onload", "onclick"} & set(page.attributes))
        for entry in self.report["weights"]["worst"]:
            self.assertIn(entry["tensor"], said)
        self.assertIn(self.report["calibration"]["ids_digest"], said)

    def test_nothing_tells_of_the_machine(self):
        for name in ("octavo_report.json", "octavo_report.html", "README.md", "octavo_manifest.json"):
            text = (self.static / name).read_text()
            self.assertNotIn(str(self.scratch), text)
            self.assertNotIn("worker", text)

    def test_card_says_how_and_invents_nothing(self):
        card = (self.static / "README.md").read_text()
        self.assertIn("octavo quantize SRC --recipe fp8-static-kv --calibration DATA --samples 12 --sample-length 50 "
                      "--out DST", card)
        self.assertIn(self.report["calibration"]["ids_digest"], card)
        self.assertIn("vllm serve DST --kv-cache-dtype fp8", card)
        self.assertIn("were not measured", card)
        self.assertIn(f"{self.report['weights']['relative_error']:.5f}", card)


if __name__ == "__main__":
    unittest.main()

"""The tools that Octavo's calibration is measured against, in the environment of install_peers.sh.

Each makes out of a BF16 folder an FP8 one with static scales, one per weight and one per input of every linear layer except
lm_head, calibrated on the token ids it is given. Each returns {step: seconds}; what a step is, is the tool's own call.
"""

import os
import shutil
import time

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import torch
import transformers
from safetensors import safe_open


class Steps(dict):
    def __init__(self):
        self.last = time.monotonic()

    def done(self, name):
        now = time.monotonic()
        self[name], self.last = now - self.last, now


def load(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


def stored_weights(folder):
    """INT8 linear layer's name -> what its codes stand for, float32."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                module = name.removesuffix(".weight_scale")
                if module != name:
                    codes, scale = file.get_tensor(f"{module}.weight"), file.get_tensor(name).float()
                    assert codes.dtype == torch.int8 and scale.shape == (len(codes), 1), module
                    found[module] = codes.float() * scale
    return found


def compress(source, out, samples, modifier, save_compressed=True):
    """oneshot of llm-compressor with one modifier, batches of one sample."""
    import datasets
    from llmcompressor import oneshot
    shutil.rmtree(out, ignore_errors=True)
    data = datasets.Dataset.from_dict({"input_ids": samples, "attention_mask": [[1] * len(ids) for ids in samples]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    steps = Steps()
    model = load(source)
    steps.done("load")
    oneshot(model=model, tokenizer=tokenizer, dataset=data, max_seq_length=max(map(len, samples)),
            num_calibration_samples=len(samples), shuffle_calibration_samples=False, recipe=modifier)
    steps.done("oneshot")
    model.save_pretrained(out, save_compressed=save_compressed)
    tokenizer.save_pretrained(out)
    steps.done("save")
    return steps


def llm_compressor(source, out, samples):
    """Its own preset "FP8": absmax observers, BF16 scales, the independent pipeline."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    return compress(source, out, samples, QuantizationModifier(targets="Linear", scheme="FP8", ignore=["lm_head"]))


def llm_compressor_gptq(source, out, samples, scheme):
    """Its GPTQ with its defaults (block 128, damping 0.01, static activation order), layer after layer."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    return compress(source, out, samples, GPTQModifier(targets="Linear", scheme=scheme, ignore=["lm_head"]))


def llm_compressor_sparsegpt(source, out, samples):
    """Its SparseGPT with its defaults (block 128, damping 0.01) to the mask 2:4, layer after layer, stored dense in BF16.

    It matches `ignore` with the module's name and a dot behind it: "lm_head" leaves nothing out, and the embedding that is tied
    to lm_head is pruned as well."""
    from llmcompressor.modifiers.pruning import SparseGPTModifier
    modifier = SparseGPTModifier(sparsity=0.5, mask_structure="2:4", targets=["Linear"], ignore=["re:.*lm_head"])
    return compress(source, out, samples, modifier, save_compressed=False)


def llm_compressor_fp8_dynamic(source, out, samples):
    """Its rounding of weights to FP8 per channel, inputs quantized per token; it looks at no sample."""
    from llmcompressor.modifiers.quantization import QuantizationModifier
    return compress(source, out, samples[:1], QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"]))


def quark(source, out, samples):
    """ModelQuantizer with FP8 per tensor by minimum and maximum, exported in Quark's own mode."""
    from quark.torch import ModelQuantizer, export_safetensors
    from quark.torch.quantization.config.config import FP8E4M3PerTensorSpec, QConfig, QLayerConfig
    from quark.torch.utils.llm.model_preparation import preprocess_for_quantization
    shutil.rmtree(out, ignore_errors=True)
    steps = Steps()
    model = load(source, attn_implementation="eager")
    steps.done("load")
    preprocess_for_quantization(model)
    spec = FP8E4M3PerTensorSpec(observer_method="min_max", is_dynamic=False).to_quantization_spec()
    config = QConfig(global_quant_config=QLayerConfig(weight=spec, input_tensors=spec), exclude=["lm_head"])
    quantizer = ModelQuantizer(config)
    model = quantizer.quantize_model(model, torch.utils.data.DataLoader([torch.tensor(ids) for ids in samples]))
    model = quantizer.freeze(model)
    steps.done("quantize")
    with torch.no_grad():
        export_safetensors(model, out)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(out)
    steps.done("save")
    return steps


PEERS = {"llm-compressor": llm_compressor, "quark": quark}

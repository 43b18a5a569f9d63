"""Recipes that several oracles quantize with; DIALECT stands for a dialect."""

STATIC = """name: static-DIALECT
dialect: DIALECT
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}
kv_cache: {type: fp8, scale: tensor}
calibration: {observer: absmax, samples: 4, sample_length: 64}
"""
PER_TENSOR = """name: fp8-tensor
dialect: fp8
rules:
  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: token}}
"""
BLOCKS = """name: fp8-blocks
dialect: fp8
rules:
  - {weight: {type: fp8, scale: block, block: [128, 128]}, input: {type: fp8, scale: group, group: 128}}
"""

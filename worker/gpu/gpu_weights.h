#pragma once

// A whole model's weights in the GPU's memory, row by row, rows aligned to 16 bytes; of a mixture,
// all experts of a layer in one array, one after the other. One rank.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/dense/dense.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/thread_pool.h"
#include "worker/gpu/device_array.h"
#include "worker/runner/linear.h"
#include "worker/runner/shard_files.h"

namespace octavo {

// One linear layer, or the same one of all experts (`experts` > 0): then every array holds theirs
// one after the other, and they are alike in form and shape.
struct GpuLinear {
  std::string name;  // of the weight tensor, the first expert's
  int experts = 0;
  InputForm form = InputForm::kBf16;
  cuda::DenseTypes types = cuda::DenseTypes::kBf16;
  int64_t channels = 0;
  int64_t depth = 0;
  int64_t stride = 0;  // elements of a row
  UnitCut units;
  float static_scale = 1;                          // InputForm::kFp8Static, without experts
  DeviceArray<float> input_scales, input_factors;  // [experts], the same with them; 1 / scale
  DeviceArray<std::byte> weights;                  // [channels][stride]
  DeviceArray<float> scales;  // [channels], or [channel blocks][depth blocks]; empty: none
  int64_t scale_stride = 0;   // of block scales
  DeviceArray<float> bias;    // [channels]; empty: none
};

struct GpuLayer {
  DeviceArray<uint16_t> attention_norm, mlp_norm;
  DeviceArray<uint16_t> query_norm, key_norm;  // empty: none
  GpuLinear query, key, value, output;
  GpuLinear router;  // of mixtures
  GpuLinear gate, up, down;
};

struct GpuWeights {
  DeviceArray<std::byte> embedding;  // [vocabulary][hidden] BF16; empty where it is the head
  GpuLinear head;
  DeviceArray<uint16_t> final_norm;
  std::vector<GpuLayer> layers;
};

// Reads with every check of LoadWeights (worker/runner/weights.h). kUnsupported: several ranks,
// heads quantized at load, weight-only block scales, block scales of a slice that begins within a
// block, widths that are no multiple of 16, experts of different formats.
absl::StatusOr<GpuWeights> LoadGpuWeights(const v1::ServePlan& plan, ShardFiles* files,
                                          ThreadPool* pool);

}  // namespace octavo

#pragma once

// A whole model's weights in the GPU's memory, as they lie on disk: row by row, rows aligned to 16
// bytes. One rank, dense families.

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

struct GpuLinear {
  std::string name;
  InputForm form = InputForm::kBf16;
  cuda::DenseTypes types = cuda::DenseTypes::kBf16;
  int64_t channels = 0;
  int64_t depth = 0;
  int64_t stride = 0;  // elements of a row
  UnitCut units;
  float static_scale = 1;          // InputForm::kFp8Static
  DeviceArray<std::byte> weights;  // [channels][stride]
  DeviceArray<float> scales;       // [channels], or [channel blocks][depth blocks]; empty: none
  int64_t scale_stride = 0;        // of block scales
  DeviceArray<float> bias;         // [channels]; empty: none
};

struct GpuLayer {
  DeviceArray<uint16_t> attention_norm, mlp_norm;
  DeviceArray<uint16_t> query_norm, key_norm;  // empty: none
  GpuLinear query, key, value, output, gate, up, down;
};

struct GpuWeights {
  DeviceArray<std::byte> embedding;  // [vocabulary][hidden] BF16; empty where it is the head
  GpuLinear head;
  DeviceArray<uint16_t> final_norm;
  std::vector<GpuLayer> layers;
};

// Reads with every check of LoadWeights (worker/runner/weights.h). kUnsupported: several ranks,
// mixtures, heads quantized at load, weight-only block scales, widths that are no multiple of 16.
absl::StatusOr<GpuWeights> LoadGpuWeights(const v1::ServePlan& plan, ShardFiles* files,
                                          ThreadPool* pool);

}  // namespace octavo

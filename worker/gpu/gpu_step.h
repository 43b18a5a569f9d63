#pragma once

// A step as the kernels want it, in the GPU's memory. Its arrays grow to those of the largest step
// and stay.

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/attention/attention.h"
#include "octavo/v1/engine.pb.h"
#include "worker/gpu/device_array.h"
#include "worker/runner/step_plan.h"

namespace octavo {

struct GpuStep {
  DeviceArray<int32_t> ids, positions, slots, logit_rows, tables;
  DeviceArray<cuda::AttentionSpan> spans;
  DeviceArray<cuda::AttentionItem> items;
  DeviceArray<cuda::AttentionMerge> merges;
  DeviceArray<float> scratch;
  int64_t rows = 0;
  int64_t logit_count = 0;
  int64_t table_stride = 0;
};

// Puts `step` in the place of the one before, which must be done. `rows` are FlattenStep's of it;
// `group` queries share a KV head. kOutOfMemory.
absl::Status UploadStep(const v1::Step& step, const StepRows& rows, int64_t group, int64_t kv_heads,
                        simt::Stream stream, GpuStep* out);

}  // namespace octavo

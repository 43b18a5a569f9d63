#pragma once

// Where a checkpoint keeps the scales of an FP8 cache of keys and values: scalars beside the
// projections of every layer, named by their attention module A or by the projection K or V:
//
//   A.k_scale, A.v_scale              compressed-tensors, AutoFP8
//   K.output_scale, V.output_scale    Quark, older compressed-tensors
//   A.kv_scale                        older AutoFP8: one for both

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

// By layer. `tensors` are all tensors of the checkpoint, in any order. kBadCheckpoint, with the
// name: a layer without both scales, a scale that is no float. kUnsupported: a scale of more than
// one element (one per head).
absl::StatusOr<std::vector<v1::CacheScales>> FindCacheScales(
    std::span<const v1::ModelTensor> tensors);

}  // namespace octavo

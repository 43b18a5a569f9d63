#pragma once

// Which models and tensors can be served: refused here, from names, shapes and schemes, before any
// byte of a weight is read.

#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/plan/serve_plan.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// kUnsupported with the reason if the runner does not compute this architecture.
absl::Status CheckServable(const v1::ModelSpec& model);

// Every tensor that is served, in layer order, shapes and schemes checked, fused ones taken apart
// (unfuse.h). kBadCheckpoint, kUnsupported.
absl::StatusOr<std::vector<ServedTensor>> SelectTensors(const v1::ModelSpec& model,
                                                        std::span<const ServedTensor> tensors);

// Has the output head among `selected` (of SelectTensors) quantized at load: FP8 per row, inputs
// per token. A head that is the embedding becomes a tensor of its own, read from the same place,
// and `model` is not tied any more. kBadRequest: it has eight bits already.
absl::Status QuantizeHeadAtLoad(v1::ModelSpec* model, std::vector<ServedTensor>* selected);

}  // namespace octavo

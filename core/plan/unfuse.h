#pragma once

// Tensors that hold several layers' weights, as one tensor for each: q, k and v in one matrix, a
// layer's experts in one stack. A part is a run of rows of the tensor on disk, so nothing is copied
// and a rank reads no more than its slice.

#include <vector>

#include "absl/status/statusor.h"
#include "core/plan/serve_plan.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// The parts of `tensor`, in the order of their rows; `tensor` alone where it is not fused. A part
// keeps the name and file of the whole, has the role and expert of what it is, its own byte range
// and shape, its rows of the scale, and the scale of the whole's input; an expert of a quantized
// stack has those of the stack's scales that are its own. kUnsupported: a stack with other scales
// than one per expert, and a part that cuts a block of scales. kBadCheckpoint: a stack with another
// number of scales than experts.
absl::StatusOr<std::vector<ServedTensor>> Unfuse(const v1::ModelSpec& model,
                                                 const ServedTensor& tensor);

}  // namespace octavo

#pragma once

// A look at the activations of a layer, from inside the forward pass.

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

// `x` is [rows][columns] BF16; `expert` is -1 outside mixtures' experts. Called between the steps
// of a layer, never from two threads of one pass.
using Observe = std::function<absl::Status(v1::ObservedPoint point, int32_t expert,
                                           const uint16_t* x, int64_t rows, int64_t columns)>;

}  // namespace octavo

#pragma once

// A look at the activations of a layer, from inside the forward pass.

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

// Rows that a linear layer reads, or keys or values as a cache stores them.
struct Observed {
  v1::ObservedPoint point;
  int32_t expert = -1;          // -1: not of a mixture's experts
  const uint16_t* x = nullptr;  // [rows][columns] BF16
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t routed = 0;  // rows that count in the model's output; the others are only observed
};

// Called between the steps of a layer, never from two threads of one pass. An expert may be seen in
// several calls, or in one without rows.
using Observe = std::function<absl::Status(const Observed& seen)>;

}  // namespace octavo

#pragma once

// A serving plan's layers one at a time: what a worker needs to send activations through one layer
// of a model whose other layers it never sees.

#include <cstdint>

#include "octavo/v1/plan.pb.h"

namespace octavo {

// The plan of layer `layer` alone, renumbered to layer 0 of a model with one layer, without
// embedding, head and final norm. REQUIRES one rank and 0 <= layer < layer_count.
v1::ServePlan LayerPlan(const v1::ServePlan& whole, int32_t layer);

}  // namespace octavo

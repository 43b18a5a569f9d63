#pragma once

// A serving plan's layers one at a time: what a worker needs to send activations through one layer
// of a model whose other layers it never sees.

#include <cstdint>

#include "octavo/v1/plan.pb.h"

namespace octavo {

// The plan of layer `layer` alone, renumbered to layer 0 of a model with one layer, without
// embedding, head and final norm. REQUIRES one rank and 0 <= layer < layer_count.
v1::ServePlan LayerPlan(const v1::ServePlan& whole, int32_t layer);

// A buffer through which matrices stream that do not stay in memory, and all that such a layer
// takes beside the buffers of a pass.
inline constexpr uint64_t kWeightStreamBytes = 32u << 20;
inline constexpr uint64_t kStreamedLayerBytes = kWeightStreamBytes * 3 / 2;

// Memory of a layer's weights, packed in BF16, and of the buffers of one pass of `rows` tokens in
// samples of at most `longest` through it: upper estimates.
uint64_t LayerWeightBytes(const v1::ServePlan& layer);
uint64_t LayerRunBytes(const v1::ServePlan& layer, int64_t rows, int64_t longest);

// A worker's --memory, split: what it takes before it holds a tensor (libraries, gRPC, stacks); the
// buffers of casts, more of which make none faster; and what is left for layers and the passes
// through them. MemoryForCalibrating is the inverse of CalibratingBytes.
inline constexpr uint64_t kWorkerBaselineBytes = 96u << 20;
inline constexpr uint64_t kTaskBufferBytesMax = 256u << 20;
uint64_t TaskBufferBytes(uint64_t memory);
uint64_t CalibratingBytes(uint64_t memory);
uint64_t MemoryForCalibrating(uint64_t bytes);

}  // namespace octavo

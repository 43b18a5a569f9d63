#pragma once

// One rank's part of a linear layer: packed weights, scales, and its run of K's units; and the
// products of a step, several layers of one input side by side. All arithmetic is kernels/matmul.h;
// this file decides order and threads (docs/numerics.md section 5).

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/tensor/bare/tree.h"
#include "kernels/matmul.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/workspace.h"

namespace octavo {

// How a linear layer's input is brought into operand form, from BF16.
enum class InputForm : uint8_t {
  kBf16 = 0,       // as it is (BF16 weights, W8A16)
  kFp8Token = 1,   // FP8 codes as numbers, one scale per row
  kFp8Group = 2,   // the same, one scale per 128 elements
  kInt8Token = 3,  // INT8 codes, one scale per row
  kFp8Static = 4,  // FP8 codes as numbers, one scale of the layer
};

struct Linear {
  std::string name;  // of the weight tensor, for messages
  InputForm form = InputForm::kBf16;
  float static_scale = 1;  // kFp8Static; every sum is multiplied by it
  bool block_scaled = false;
  int64_t channels = 0;         // outputs of this rank
  int64_t depth = 0;            // inputs of this rank
  int64_t unit_size = 0;        // of K; == depth where K is not cut
  int64_t blocks_per_unit = 0;  // 32-blocks of one packed unit
  int unit_count = 1;           // units of this rank
  std::vector<LeafRun> pieces;  // maximal subtrees, as runs of this rank's units

  PackedWeights packed;
  Buffer tiles;
  const v1::RankTensor* streamed = nullptr;  // read from here when needed; tiles are empty then
  std::vector<float> channel_scales;         // [16 * group_count]; empty: none
  std::vector<float> block_scales;           // [128-blocks][16 * group_count]; empty: none
  std::vector<int32_t> channel_sums;         // INT8
  std::vector<float> bias;                   // [channels]; empty: none

  int64_t padded_channels() const { return packed.group_count * kTileChannels; }
  int64_t packed_depth() const { return packed.block_count * kTileDepth; }
  uint64_t bytes() const { return tiles.size(); }
};

// Rows of activations in operand form, laid out for the units of one linear layer.
struct LinearInput {
  int64_t rows = 0;
  int64_t stride = 0;                   // elements per row: packed_depth of the layers it is for
  const float* values = nullptr;        // all forms but INT8
  const int8_t* codes = nullptr;        // kInt8Token
  const float* row_scales = nullptr;    // [rows]: token forms; null: the layer's static scale
  const float* group_scales = nullptr;  // [rows][groups]: block-scaled weights
  int64_t group_stride = 0;

  // `count` rows from `begin` on.
  LinearInput Rows(int64_t begin, int64_t count) const {
    LinearInput part = *this;
    part.rows = count;
    if (values != nullptr) part.values += begin * stride;
    if (codes != nullptr) part.codes += begin * stride;
    if (row_scales != nullptr) part.row_scales += begin;
    if (group_scales != nullptr) part.group_scales += begin * group_stride;
    return part;
  }
};

// Where a product goes. Exactly one of the three is set.
struct LinearOutput {
  // Finished: BF16 rows (+ residual, which may be the output itself) or F32 rows.
  uint16_t* bf16 = nullptr;
  const uint16_t* residual = nullptr;  // same stride
  float* f32 = nullptr;
  int64_t stride = 0;
  // Unfinished sums of each piece, for the other ranks: [pieces][rows][channels], F32 or INT32.
  std::byte* pieces = nullptr;

  // The same place, `begin` rows on. REQUIRES no `pieces`.
  LinearOutput From(int64_t begin) const {
    LinearOutput part = *this;
    if (bf16 != nullptr) part.bf16 += begin * stride;
    if (residual != nullptr) part.residual += begin * stride;
    if (f32 != nullptr) part.f32 += begin * stride;
    return part;
  }
};

struct LinearJob {
  const Linear* linear = nullptr;
  LinearInput input;
  LinearOutput output;
};

// Runs products side by side in one parallel region.
void RunLinears(const MatmulOps& ops, ThreadPool* pool, std::span<const LinearJob> jobs,
                Workspace* workspace);

// Adds up `pieces` ([piece][rows][channels], all ranks' pieces in tree order, with gaps between
// ranks: piece i starts at offsets[i]) by `steps`, in place, and finishes rows into `output`.
struct MergeJob {
  const Linear* linear = nullptr;
  const float* row_scales = nullptr;  // [rows]; null: the layer's static scale
  int64_t rows = 0;
  std::byte* base = nullptr;
  std::span<const int64_t> offsets;  // bytes
  std::span<const MergeStep> steps;
  LinearOutput output;
};
void MergeAndFinish(const MatmulOps& ops, ThreadPool* pool, const MergeJob& job);

}  // namespace octavo

// The specification of kernels/matmul.h.

#include <cstring>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {
namespace {

float WeightAt(WeightType type, const std::byte* tile, int64_t channel, int64_t k) {
  const std::byte* at = tile + TileOffset(type, channel, k);
  if (type == WeightType::kFp8) return F32FromFp8(static_cast<uint8_t>(*at));
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  return F32FromBf16(bits);
}

// The 32-block rule for one row and channel.
float BlockSum(WeightType type, const std::byte* tile, int64_t channel, const float* x) {
  float even = 0;
  float odd = 0;
  for (int64_t k = 0; k < kTileDepth; k += 2) {
    even = __builtin_fmaf(x[k], WeightAt(type, tile, channel, k), even);
    odd = __builtin_fmaf(x[k + 1], WeightAt(type, tile, channel, k + 1), odd);
  }
  return even + odd;
}

// Calls body(row, group, lane, sum index) for every output of the part.
template <typename Body>
void ForEachOutput(const MatmulPart& part, int64_t sums_stride, Body body) {
  for (int64_t row = 0; row < part.rows; ++row) {
    for (int64_t group = part.group_begin; group < part.group_end; ++group) {
      for (int64_t lane = 0; lane < kTileChannels; ++lane) {
        body(row, group, lane,
             row * sums_stride + (group - part.group_begin) * kTileChannels + lane);
      }
    }
  }
}

void Sum(const PackedWeights& weights, const MatmulPart& part, const float* x, int64_t x_stride,
         float* sums, int64_t sums_stride) {
  ForEachOutput(part, sums_stride, [&](int64_t row, int64_t group, int64_t lane, int64_t index) {
    float sum = 0;
    for (int64_t block = part.block_begin; block < part.block_end; ++block) {
      sum += BlockSum(weights.type, weights.Tile(group, block), lane,
                      x + row * x_stride + block * kTileDepth);
    }
    sums[index] = sum;
  });
}

void SumScaled(const PackedWeights& weights, const MatmulPart& part, const float* x,
               int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  ForEachOutput(part, sums_stride, [&](int64_t row, int64_t group, int64_t lane, int64_t index) {
    float sum = 0;
    for (int64_t begin = part.block_begin; begin < part.block_end; begin += 4) {
      const int64_t end = begin + 4 < part.block_end ? begin + 4 : part.block_end;
      float p = 0;
      for (int64_t block = begin; block < end; ++block) {
        p += BlockSum(weights.type, weights.Tile(group, block), lane,
                      x + row * x_stride + block * kTileDepth);
      }
      const float row_scale = scales.rows[row * scales.row_stride + begin / 4];
      const float channel_scale =
          scales.channels[begin / 4 * scales.channel_stride + group * kTileChannels + lane];
      sum = __builtin_fmaf(p, row_scale * channel_scale, sum);
    }
    sums[index] = sum;
  });
}

void SumInt8(const PackedWeights& weights, const MatmulPart& part, const int8_t* x,
             int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  ForEachOutput(part, sums_stride, [&](int64_t row, int64_t group, int64_t lane, int64_t index) {
    uint32_t sum = 0;
    for (int64_t block = part.block_begin; block < part.block_end; ++block) {
      const std::byte* tile = weights.Tile(group, block);
      for (int64_t k = 0; k < kTileDepth; ++k) {
        const auto code = static_cast<int8_t>(tile[TileOffset(WeightType::kInt8, lane, k)]);
        sum += static_cast<uint32_t>(code * x[row * x_stride + block * kTileDepth + k]);
      }
    }
    sums[index] = static_cast<int32_t>(sum);
  });
}

void Widen(const uint16_t* x, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = F32FromBf16(x[i]);
}

void Add(float* into, const float* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) into[i] += from[i];
}

void AddWeighted(float* into, const float* from, float weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) into[i] = __builtin_fmaf(weight, from[i], into[i]);
}

void FromInt32(const int32_t* sums, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(sums[i]);
}

void FinishF32(const float* sums, int64_t count, float row_scale, const float* channel_scales,
               const float* bias, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    float y = sums[i] * row_scale;
    if (channel_scales != nullptr) y *= channel_scales[i];
    if (bias != nullptr) y += bias[i];
    out[i] = y;
  }
}

void Finish(const float* sums, int64_t count, float row_scale, const float* channel_scales,
            const float* bias, const uint16_t* residual, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    float y = sums[i] * row_scale;
    if (channel_scales != nullptr) y *= channel_scales[i];
    if (bias != nullptr) y += bias[i];
    if (residual != nullptr) y += F32FromBf16(residual[i]);
    out[i] = Bf16FromF32(y);
  }
}

}  // namespace

const MatmulOps kMatmulReference = {Sum,         SumScaled, SumInt8, Widen,    Add,
                                    AddWeighted, FromInt32, Finish,  FinishF32};

}  // namespace octavo::internal

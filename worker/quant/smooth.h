#pragma once

// SmoothQuant (Xiao et al., 2022) with powers of two. Channel j of what some linear layers read is
// divided by s_j, which the norm that makes it does for nothing, and column j of their weights is
// multiplied by it: the same products, but the largest magnitudes have moved from the activations,
// where a few channels spoil a token's scale, into the weights.
//
//   s_j = 2^k_j,   k_j = round(a log2(max |x_j|) - (1 - a) log2(max |w_j|)),   |k_j| <= 16
//
// a being the strength. A power of two only changes exponents: in BF16 and F32 the smoothed model
// computes the same bits before anything is quantized.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "octavo/v1/types.pb.h"
#include "worker/quant/quantizer.h"

namespace octavo {

using Exponents = std::vector<int8_t>;  // k_j by channel
inline constexpr int kExponentMax = 16;

// Magnitude bits of BF16, the largest of each channel; subnormals count as zero.
using ChannelAmax = std::vector<uint16_t>;

// Merges rows [rows][channels] of BF16 into `*amax`, which has a number for every channel.
void AddChannelAmax(const uint16_t* x, int64_t rows, ChannelAmax* amax);

// The same over the rows of a weight, F32 magnitude bits. Errors: kNonFinite naming tensor and
// offset.
absl::Status AddColumnAmax(const WeightRows& rows, std::vector<uint32_t>* amax);

// k by channel; 0 where nothing was seen or the weights are all zero. The same bits on every
// machine. REQUIRES: as many weights as inputs; strength in (0, 1].
Exponents SmoothingExponents(std::span<const uint16_t> input_amax,
                             std::span<const uint32_t> weight_amax, double strength);

// Elements of a tensor, the first of them `offset` bytes into it, times 2^k of their column, or
// divided by it. A tensor of one dimension has its channels as columns. Errors: kNonFinite naming
// tensor and offset where a finite number leaves the range of its type; kInternal where the
// columns are not the channels.
absl::Status FoldElements(const v1::TensorSpec& spec, uint64_t offset,
                          std::span<const int8_t> exponents, bool divides,
                          std::span<std::byte> bytes);

}  // namespace octavo

#pragma once

// Memory and disk of second-order solving: what a plan foretells and a worker borrows. Upper
// estimates, in bytes.

#include <cstdint>

#include "octavo/v1/plan.pb.h"

namespace octavo {

// A Hessian of `channels` in memory, and its upper triangle in a file.
uint64_t HessianBytes(int64_t channels);
uint64_t HessianFileBytes(int64_t channels);

// Summing one leaf of a Hessian.
uint64_t HessianLeafBytes(int64_t channels);

// Tokens that are read at a time on their way into a Hessian.
inline constexpr int64_t kHessianReadTokens = 256;

// Solving matrices under a Hessian of `leaves` leaves that lie in files (0: summed where it is
// solved; shrinking it takes no more), on `threads` threads.
uint64_t SolveBytes(int64_t channels, uint32_t leaves, int threads);

// Outputs of the weight that a piece is: its rows, unless it is transposed.
int64_t OutputsOf(const v1::Piece& piece);

// Turning a transposed piece and its codes; 0 of others.
uint64_t TurnedBytes(const v1::Piece& piece);

// Measuring what quantizing does to the outputs of weights that read `channels`, on `threads`
// threads: kSenseTokens tokens as they are and quantized, and 128 rows of each of `weights` both
// ways.
uint64_t SenseBytes(int64_t channels, uint64_t weights, int threads);

}  // namespace octavo

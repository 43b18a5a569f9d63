#pragma once

// Second-order quantization of one matrix: GPTQ (Frantar et al., 2022) and SparseGPT (Frantar and
// Alistarh, 2023) over the factor of a Hessian. Codes come out of the recursion (sweep.h) and are
// never made again from rounded weights.
//
// Scales are those that the other algorithms give the original weights (rule.algorithm: absmax or
// mse), fixed before the first column is touched; so groups keep their own columns in any order of
// solving. Rows never meet: a piece of whole rows gives the bytes of the whole, by the same factor.
// The same bits for every instruction set and number of threads.

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/quantizer.h"
#include "worker/quant/solve/factor.h"

namespace octavo {

enum class Sparsity : uint8_t {
  // A row that comes with the 2:4 pattern (mask.h) keeps its zeros, all of them; others are dense.
  kKeep,
  // Every row leaves with the pattern. One that comes with it keeps its zeros; of others' fours the
  // two with the smallest w^2 / U[i][i]^2 become zero, w as it is when the first of the four is
  // reached, ties to the lower channel.
  kTwoOfFour,
};

// tr(dW H dW^T): what the layer's squared output error over the calibration tokens is, summed over
// these rows (rows ascending in blocks of 128, blocks merged over Tree). H without damping.
struct SolveReport {
  v1::PieceReport piece;  // of what was written, as Quantizer::Quantize has it
  // Rounding to nearest; where a mask is made, after dropping the two smallest magnitudes of four.
  double error_before = 0;
  // What was written: never more than before, in no row. In a compatibility mode what the recursion
  // came to, whatever it was.
  double error_after = 0;
  int64_t nearest_rows = 0;  // rows that rounding to nearest serves better: they have its codes
  int64_t sparse_rows = 0;   // rows that leave with the pattern because they came with it
};

// What SolveRows and PruneRows work with.
struct SolveSetup {
  const HessianFactor* factor = nullptr;
  Isa isa = Isa::kReference;  // REQUIRES: IsSupported(isa)
  Arena* arena = nullptr;     // takes channels KiB per thread while a call runs
  ThreadPool* pool = nullptr;
};

// Writes codes and scales as Quantizer::Quantize does. Channels whose inputs were all zero get code
// 0; a group whose weights are all zero keeps code 0. REQUIRES: rows.columns are the
// factor's channels. Errors: as MakeQuantizer and Quantize; kOutOfMemory; kUnsupported for a
// compatibility mode that is not of solving, and for kTwoOfFour where the columns are no multiple
// of four or the factor is in kActivation order.
absl::StatusOr<SolveReport> SolveRows(const SolveSetup& setup, const WeightRows& rows,
                                      const QuantizeRule& rule, const v1::TieStat* joint,
                                      Sparsity sparsity, std::span<std::byte> codes,
                                      std::span<std::byte> scales);

// SparseGPT alone: writes weights of the type they had, with a 2:4 pattern. `values` has the size
// of rows.bytes and may not be it. The rounding to the type is an error that is fed on as well.
// Errors: as SolveRows; kNonFinite.
absl::StatusOr<SolveReport> PruneRows(const SolveSetup& setup, const WeightRows& rows,
                                      std::span<std::byte> values);

}  // namespace octavo

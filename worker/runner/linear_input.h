#pragma once

// Bringing BF16 activations into the operand form of linear layers (docs/numerics.md section 4).

#include <array>
#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "kernels/quantize_activation.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/workspace.h"

namespace octavo {

// Maximum over all ranks of F32 magnitude bits, row by row; used where a row is spread over ranks.
using ExchangeMax = std::function<absl::Status(std::span<uint32_t>)>;

class InputPreparer {
 public:
  InputPreparer(Isa isa, ThreadPool* pool, Arena* arena);

  // Prepares `rows` rows of `x` ([rows][stride] BF16, `depth` of the layers used) for every layer
  // of `linears`, which read the same input and cut K alike. `exchange` may be empty. kNonFinite
  // names the layer whose input is NaN or infinite.
  absl::Status Prepare(std::span<const Linear* const> linears, const uint16_t* x, int64_t stride,
                       int64_t rows, const ExchangeMax& exchange);

  // The operand form for one of the layers of the last Prepare.
  const LinearInput& For(const Linear& linear) const {
    return inputs_[static_cast<size_t>(linear.form)];
  }

 private:
  absl::Status PrepareForm(const Linear& linear, const uint16_t* x, int64_t stride, int64_t rows,
                           const ExchangeMax& exchange);
  absl::Status Reserve(const Linear& linear, int64_t rows);
  bool PrepareRow(const Linear& linear, const uint16_t* x, int64_t row, uint32_t amax, int thread);

  struct Buffers {
    GrowingBuffer values, codes, row_scales, group_scales;
  };
  const MatmulOps& ops_;
  const QuantizeActivationOps& quantize_;
  ThreadPool* pool_;
  Arena* arena_;
  std::array<LinearInput, 4> inputs_;  // by form
  std::array<Buffers, 4> buffers_;
  GrowingBuffer amax_;        // [rows] uint32
  GrowingBuffer thread_row_;  // [threads][depth] BF16
  int64_t thread_row_stride_ = 0;
};

}  // namespace octavo

#pragma once

// Bringing BF16 activations into the operand form of linear layers (docs/numerics.md section 4).

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "kernels/quantize_activation.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/workspace.h"

namespace octavo {

// Maximum over all ranks of F32 magnitude bits, row by row; used where a row is spread over ranks.
using ExchangeMax = std::function<absl::Status(std::span<uint32_t>)>;

// A layer and the rows [begin, end) of the input that go through it.
struct InputUse {
  const Linear* linear = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
};

class InputPreparer {
 public:
  InputPreparer(Isa isa, ThreadPool* pool, Arena* arena);

  // Prepares rows of `x` ([rows][stride] BF16, `depth` of the layers used) for every use; the
  // layers cut K alike. Layers that read neighbouring rows in the same form, at the same scale
  // where it is static, share them. `exchange` may be empty: rows are then whole. kNonFinite names
  // the layer whose input is NaN or infinite; where rows are spread and no maximum is exchanged,
  // the row becomes NaN instead, so that all ranks learn of it from its sums.
  absl::Status Prepare(std::span<const InputUse> uses, const uint16_t* x, int64_t stride,
                       const ExchangeMax& exchange);
  // The same where all layers read the same `rows` rows.
  absl::Status Prepare(std::span<const Linear* const> linears, const uint16_t* x, int64_t stride,
                       int64_t rows, const ExchangeMax& exchange);

  // Takes the memory that a Prepare of such uses needs, whatever static scales their layers have.
  absl::Status ReserveFor(std::span<const InputUse> uses);

  // The operand form for one of the uses of the last Prepare.
  LinearInput For(const InputUse& use) const;
  // REQUIRES the second Prepare: all rows.
  LinearInput For(const Linear& linear) const { return For({&linear, 0, rows_}); }

 private:
  // One operand form of rows [begin, end), for `linear` and all that need the same.
  struct Slot {
    const Linear* linear = nullptr;
    int64_t begin = 0, end = 0;
    float* values = nullptr;
    int8_t* codes = nullptr;
    float* scales = nullptr;  // of rows or groups
    LinearInput input;        // the same, to be read

    bool Fits(const Linear& other) const {
      return linear->form == other.form && linear->static_scale == other.static_scale &&
             linear->block_scaled == other.block_scaled;
    }
  };

  void AddUse(const InputUse& use);
  absl::Status Reserve();
  absl::Status Fill(const Slot& slot, const uint16_t* x, int64_t stride,
                    const ExchangeMax& exchange);
  bool FillRow(const Slot& slot, const uint16_t* x, int64_t row, uint32_t amax, int thread);

  const MatmulOps& ops_;
  const QuantizeActivationOps& quantize_;
  ThreadPool* pool_;
  Arena* arena_;
  std::vector<Slot> slots_;  // of the last Prepare
  int64_t rows_ = 0;
  GrowingBuffer values_, codes_, scales_;  // of all slots
  GrowingBuffer amax_;                     // [rows] uint32
  GrowingBuffer thread_row_;               // [threads][depth] BF16
  int64_t thread_row_stride_ = 0;
};

}  // namespace octavo

#include "worker/runner/linear_input.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/scale.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

bool IsTokenForm(InputForm form) {
  return form == InputForm::kFp8Token || form == InputForm::kInt8Token;
}

// Calls body(first element, count, packed position) for every unit of K.
template <typename Body>
void ForUnits(const Linear& linear, Body body) {
  for (int unit = 0; unit < linear.unit_count; ++unit) {
    const int64_t begin = unit * linear.unit_size;
    body(begin, std::min(linear.unit_size, linear.depth - begin),
         unit * linear.blocks_per_unit * kTileDepth);
  }
}

absl::Status NonFinite(const Linear& linear) {
  return MakeError(Reason::kNonFinite, "an activation is NaN or infinite at the input of the layer",
                   {.tensor = linear.name}, "the model overflows BF16 on this input");
}

}  // namespace

InputPreparer::InputPreparer(Isa isa, ThreadPool* pool, Arena* arena)
    : ops_(MatmulOpsFor(isa)),
      quantize_(QuantizeActivationOpsFor(isa)),
      pool_(pool),
      arena_(arena) {}

absl::Status InputPreparer::Prepare(std::span<const Linear* const> linears, const uint16_t* x,
                                    int64_t stride, int64_t rows, const ExchangeMax& exchange) {
  std::array<bool, 4> done = {};
  for (const Linear* linear : linears) {
    bool& ready = done[static_cast<size_t>(linear->form)];
    if (ready) continue;
    OCTAVO_RETURN_IF_ERROR(PrepareForm(*linear, x, stride, rows, exchange));
    ready = true;
  }
  return absl::OkStatus();
}

absl::Status InputPreparer::Reserve(const Linear& linear, int64_t rows) {
  const auto form = static_cast<size_t>(linear.form);
  Buffers& buffers = buffers_[form];
  LinearInput& input = inputs_[form];
  input = {};
  input.rows = rows;
  input.stride = linear.packed_depth();
  const auto count = static_cast<uint64_t>(rows * input.stride);
  if (linear.form == InputForm::kInt8Token) {
    OCTAVO_RETURN_IF_ERROR(buffers.codes.Reserve(arena_, count, "activation codes"));
    input.codes = buffers.codes.as<int8_t>();
  } else {
    OCTAVO_RETURN_IF_ERROR(buffers.values.Reserve(arena_, count * 4, "activation values"));
    input.values = buffers.values.as<float>();
  }
  if (IsTokenForm(linear.form)) {
    OCTAVO_RETURN_IF_ERROR(
        buffers.row_scales.Reserve(arena_, static_cast<uint64_t>(rows) * 4, "activation scales"));
    input.row_scales = buffers.row_scales.as<float>();
    OCTAVO_RETURN_IF_ERROR(
        amax_.Reserve(arena_, static_cast<uint64_t>(rows) * 4, "activation maxima"));
  } else {
    input.group_stride = CeilDiv(input.stride, kScaleBlock);
    OCTAVO_RETURN_IF_ERROR(buffers.group_scales.Reserve(
        arena_, static_cast<uint64_t>(rows * input.group_stride) * 4, "activation scales"));
    input.group_scales = buffers.group_scales.as<float>();
  }
  thread_row_stride_ = RoundUp(linear.depth, 64);
  return thread_row_.Reserve(arena_, static_cast<uint64_t>(pool_->size() * thread_row_stride_) * 2,
                             "activation row");
}

// Returns false where a value is not finite.
bool InputPreparer::PrepareRow(const Linear& linear, const uint16_t* x, int64_t row, uint32_t amax,
                               int thread) {
  const auto form = static_cast<size_t>(linear.form);
  Buffers& buffers = buffers_[form];
  const LinearInput& input = inputs_[form];
  if (linear.form == InputForm::kInt8Token) {
    if (!IsFiniteAmax(amax)) return false;
    const Int8Dynamic dynamic = Int8DynamicScale(amax);
    buffers.row_scales.as<float>()[row] = dynamic.scale;
    int8_t* codes = buffers.codes.as<int8_t>() + row * input.stride;
    std::memset(codes, 0, static_cast<size_t>(input.stride));
    ForUnits(linear, [&](int64_t begin, int64_t count, int64_t at) {
      quantize_.int8_multiply(x + begin, static_cast<size_t>(count), dynamic.factor, codes + at);
    });
    return true;
  }
  const uint16_t* source = x;
  uint16_t* scratch = thread_row_.as<uint16_t>() + thread * thread_row_stride_;
  if (linear.form == InputForm::kFp8Token) {
    if (!IsFiniteAmax(amax)) return false;
    const float scale = Fp8DynamicScale(amax);
    buffers.row_scales.as<float>()[row] = scale;
    quantize_.fp8_divide_bf16(x, static_cast<size_t>(linear.depth), scale, scratch);
    source = scratch;
  } else {
    float* scales = buffers.group_scales.as<float>() + row * input.group_stride;
    std::fill_n(scales, input.group_stride, 1.0f);
    if (linear.form == InputForm::kFp8Group) {
      if (!quantize_.fp8_groups_bf16(x, static_cast<size_t>(linear.depth), scales, scratch)) {
        return false;
      }
      source = scratch;
    }
  }
  float* values = buffers.values.as<float>() + row * input.stride;
  ForUnits(linear, [&](int64_t begin, int64_t count, int64_t at) {
    ops_.widen(source + begin, count, values + at);
    std::fill(values + at + count, values + at + RoundUp(count, kTileDepth), 0.0f);
  });
  return true;
}

absl::Status InputPreparer::PrepareForm(const Linear& linear, const uint16_t* x, int64_t stride,
                                        int64_t rows, const ExchangeMax& exchange) {
  OCTAVO_RETURN_IF_ERROR(Reserve(linear, rows));
  const bool token = IsTokenForm(linear.form);
  const auto amax_of = [&](int64_t row) {
    return quantize_.amax(x + row * stride, static_cast<size_t>(linear.depth));
  };
  uint32_t* amax = amax_.as<uint32_t>();
  const bool spread = token && exchange != nullptr;
  if (spread) {
    pool_->ParallelFor(rows, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) amax[row] = amax_of(row);
    });
    OCTAVO_RETURN_IF_ERROR(exchange(std::span(amax, static_cast<size_t>(rows))));
  }
  std::atomic<bool> finite = true;
  pool_->ParallelFor(rows, 8, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t largest = !token ? 0 : spread ? amax[row] : amax_of(row);
      if (!PrepareRow(linear, x + row * stride, row, largest, thread)) finite = false;
    }
  });
  return finite ? absl::OkStatus() : NonFinite(linear);
}

}  // namespace octavo

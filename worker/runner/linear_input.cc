#include "worker/runner/linear_input.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

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

// Forms whose rows are looked at as a whole before they are written.
bool NeedsAmax(InputForm form) { return IsTokenForm(form) || form == InputForm::kFp8Static; }

// Products of block-scaled weights take a scale for every row and block, of ones where x is plain.
bool HasGroupScales(const Linear& linear) { return linear.block_scaled; }

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

absl::Status InputPreparer::Prepare(std::span<const InputUse> uses, const uint16_t* x,
                                    int64_t stride, const ExchangeMax& exchange) {
  slots_.clear();
  for (const InputUse& use : uses) AddUse(use);
  OCTAVO_RETURN_IF_ERROR(Reserve());
  for (const Slot& slot : slots_) OCTAVO_RETURN_IF_ERROR(Fill(slot, x, stride, exchange));
  return absl::OkStatus();
}

absl::Status InputPreparer::Prepare(std::span<const Linear* const> linears, const uint16_t* x,
                                    int64_t stride, int64_t rows, const ExchangeMax& exchange) {
  std::vector<InputUse> uses;
  for (const Linear* linear : linears) uses.push_back({linear, 0, rows});
  rows_ = rows;
  return Prepare(uses, x, stride, exchange);
}

absl::Status InputPreparer::ReserveFor(std::span<const InputUse> uses) {
  slots_.clear();
  for (const InputUse& use : uses) {
    if (use.linear->form != InputForm::kFp8Static) {
      AddUse(use);
      continue;
    }
    Slot& slot = slots_.emplace_back();  // in other layers they may not share a scale
    slot.linear = use.linear;
    slot.begin = use.begin;
    slot.end = use.end;
  }
  return Reserve();
}

LinearInput InputPreparer::For(const InputUse& use) const {
  const auto found = std::find_if(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.Fits(*use.linear) && slot.begin <= use.begin && use.end <= slot.end;
  });
  OCTAVO_CHECK(found != slots_.end());
  return found->input.Rows(use.begin - found->begin, use.end - use.begin);
}

void InputPreparer::AddUse(const InputUse& use) {
  for (Slot& slot : slots_) {
    if (!slot.Fits(*use.linear) || use.begin > slot.end || use.end < slot.begin) continue;
    slot.begin = std::min(slot.begin, use.begin);
    slot.end = std::max(slot.end, use.end);
    return;
  }
  Slot& slot = slots_.emplace_back();
  slot.linear = use.linear;
  slot.begin = use.begin;
  slot.end = use.end;
}

// Lays the slots out one after the other.
absl::Status InputPreparer::Reserve() {
  int64_t values = 0, codes = 0, scales = 0, rows_max = 0, depth_max = 0;
  for (Slot& slot : slots_) {
    const Linear& linear = *slot.linear;
    const int64_t rows = slot.end - slot.begin;
    slot.input.rows = rows;
    slot.input.stride = linear.packed_depth();
    (linear.form == InputForm::kInt8Token ? codes : values) += rows * slot.input.stride;
    if (HasGroupScales(linear)) slot.input.group_stride = CeilDiv(slot.input.stride, kScaleBlock);
    scales += rows * (IsTokenForm(linear.form) ? 1 : slot.input.group_stride);
    rows_max = std::max(rows_max, rows);
    depth_max = std::max(depth_max, linear.depth);
  }
  thread_row_stride_ = RoundUp(depth_max, 64);
  const auto reserve = [&](GrowingBuffer* buffer, int64_t bytes, std::string_view what) {
    return buffer->Reserve(arena_, static_cast<uint64_t>(bytes), what);
  };
  OCTAVO_RETURN_IF_ERROR(reserve(&values_, values * 4, "activation values"));
  OCTAVO_RETURN_IF_ERROR(reserve(&codes_, codes, "activation codes"));
  OCTAVO_RETURN_IF_ERROR(reserve(&scales_, scales * 4, "activation scales"));
  OCTAVO_RETURN_IF_ERROR(reserve(&amax_, rows_max * 4, "activation maxima"));
  OCTAVO_RETURN_IF_ERROR(
      reserve(&thread_row_, pool_->size() * thread_row_stride_ * 2, "activation row"));
  values = codes = scales = 0;
  for (Slot& slot : slots_) {
    const Linear& linear = *slot.linear;
    LinearInput& input = slot.input;
    if (linear.form == InputForm::kInt8Token) {
      input.codes = slot.codes = codes_.as<int8_t>() + codes;
      codes += input.rows * input.stride;
    } else {
      input.values = slot.values = values_.as<float>() + values;
      values += input.rows * input.stride;
    }
    slot.scales = scales_.as<float>() + scales;
    if (IsTokenForm(linear.form)) input.row_scales = slot.scales;
    if (HasGroupScales(linear)) input.group_scales = slot.scales;
    scales += input.rows * (IsTokenForm(linear.form) ? 1 : input.group_stride);
  }
  return absl::OkStatus();
}

// `row` counts within the slot. Returns false where a value is not finite.
bool InputPreparer::FillRow(const Slot& slot, const uint16_t* x, int64_t row, uint32_t amax,
                            int thread) {
  const Linear& linear = *slot.linear;
  if (NeedsAmax(linear.form) && !IsFiniteAmax(amax)) return false;
  const auto depth = static_cast<size_t>(linear.depth);
  const int64_t stride = slot.input.stride;
  if (linear.form == InputForm::kInt8Token) {
    const Int8Dynamic dynamic = Int8DynamicScale(amax);
    slot.scales[row] = dynamic.scale;
    int8_t* codes = slot.codes + row * stride;
    std::memset(codes, 0, static_cast<size_t>(stride));
    ForUnits(linear, [&](int64_t begin, int64_t count, int64_t at) {
      quantize_.int8_multiply(x + begin, static_cast<size_t>(count), dynamic.factor, codes + at);
    });
    return true;
  }
  uint16_t* scratch = thread_row_.as<uint16_t>() + thread * thread_row_stride_;
  const uint16_t* source = linear.form == InputForm::kBf16 ? x : scratch;
  float* group_scales = slot.scales + row * slot.input.group_stride;
  if (HasGroupScales(linear)) std::fill_n(group_scales, slot.input.group_stride, 1.0f);
  if (linear.form == InputForm::kFp8Static) {
    quantize_.fp8_multiply_bf16(x, depth, 1.0f / linear.static_scale, scratch);
  } else if (linear.form == InputForm::kFp8Token) {
    slot.scales[row] = Fp8DynamicScale(amax);
    quantize_.fp8_divide_bf16(x, depth, slot.scales[row], scratch);
  } else if (linear.form == InputForm::kFp8Group &&
             !quantize_.fp8_groups_bf16(x, depth, group_scales, scratch)) {
    return false;
  }
  float* values = slot.values + row * stride;
  ForUnits(linear, [&](int64_t begin, int64_t count, int64_t at) {
    ops_.widen(source + begin, count, values + at);
    std::fill(values + at + count, values + at + RoundUp(count, kTileDepth), 0.0f);
  });
  return true;
}

absl::Status InputPreparer::Fill(const Slot& slot, const uint16_t* x, int64_t stride,
                                 const ExchangeMax& exchange) {
  const Linear& linear = *slot.linear;
  const int64_t rows = slot.end - slot.begin;
  const auto row_of = [&](int64_t row) { return x + (slot.begin + row) * stride; };
  const auto amax_of = [&](int64_t row) {
    return quantize_.amax(row_of(row), static_cast<size_t>(linear.depth));
  };
  uint32_t* amax = amax_.as<uint32_t>();
  const bool spread = exchange != nullptr;
  const bool exchanged = spread && IsTokenForm(linear.form);
  if (exchanged) {
    pool_->ParallelFor(rows, 8, [&](int64_t begin, int64_t end, int) {
      for (int64_t row = begin; row < end; ++row) amax[row] = amax_of(row);
    });
    OCTAVO_RETURN_IF_ERROR(exchange(std::span(amax, static_cast<size_t>(rows))));
  }
  std::atomic<bool> finite = true;
  pool_->ParallelFor(rows, 8, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t largest = exchanged ? amax[row] : NeedsAmax(linear.form) ? amax_of(row) : 0;
      if (FillRow(slot, row_of(row), row, largest, thread)) continue;
      if (exchanged || !spread) {
        finite = false;
      } else {
        std::fill_n(slot.values + row * slot.input.stride, slot.input.stride,
                    std::numeric_limits<float>::quiet_NaN());
      }
    }
  });
  return finite ? absl::OkStatus() : NonFinite(linear);
}

}  // namespace octavo

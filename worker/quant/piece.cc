#include "worker/quant/piece.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/tree.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int64_t kSumBlockRows = 128;

absl::Status NonFiniteError(const WeightRows& rows, int64_t row, int64_t column) {
  const std::byte* at = ElementAt(rows, row, column);
  float value = 0;
  uint16_t half = 0;
  if (rows.dtype == DType::kF32) {
    std::memcpy(&value, at, sizeof(value));
  } else {
    std::memcpy(&half, at, sizeof(half));
    value = rows.dtype == DType::kF16 ? F32FromF16(half) : F32FromBf16(half);
  }
  const uint64_t offset = rows.file_offset + static_cast<uint64_t>(at - rows.bytes.data());
  return MakeError(
      Reason::kNonFinite,
      fmt::format("weight is {} at row {}, column {}", std::isnan(value) ? "NaN" : "infinite",
                  rows.row_begin + row, column),
      {.file = rows.file, .tensor = rows.tensor, .offset = offset},
      "The checkpoint is damaged or was trained to divergence; fetch it again");
}

void StoreScale(float scale, SourceType type, std::byte* at) {
  const uint32_t bits = StoredScaleBits(scale, type);
  const uint16_t half = static_cast<uint16_t>(bits);
  if (type == SourceType::kF32) {
    std::memcpy(at, &bits, sizeof(bits));
  } else {
    std::memcpy(at, &half, sizeof(half));
  }
}

// Rows and columns that share scales: a band is cast as soon as its scales are known, while it is
// in cache.
struct Grid {
  int64_t band_rows;
  int64_t group_columns;
};

Grid GridOf(const v1::NumericFormat& format, const WeightRows& rows) {
  const int64_t columns = std::max<int64_t>(rows.columns, 1);
  switch (format.granularity()) {
    case v1::PER_CHANNEL:
      return {1, columns};
    case v1::PER_BLOCK:
      return {format.block_rows(), format.block_columns()};
    default:
      return {std::max<int64_t>(rows.rows, 1), columns};
  }
}

struct Report {
  RowBlockSum squared_error;
  RowBlockSum squared_source;
  double max_abs_error = 0;
  uint64_t zero_groups = 0;
  uint64_t saturated = 0;
  float scale_min = 0;  // of groups that are not all zero; 0: none yet
  float scale_max = 0;

  void AddScale(float scale) {
    scale_min = scale_min == 0 ? scale : std::min(scale_min, scale);
    scale_max = std::max(scale_max, scale);
  }
};

void CastBand(const CastSetup& setup, const WeightRows& rows, int64_t begin, int64_t end,
              int64_t group_columns, const std::vector<float>& scales, std::span<std::byte> codes,
              Report* report) {
  for (int64_t row = begin; row < end; ++row) {
    CastFigures figures;
    auto* to = reinterpret_cast<uint8_t*>(codes.data() + row * rows.columns);
    setup.ops->cast_row(ElementAt(rows, row, 0), SourceTypeOf(rows.dtype),
                        static_cast<size_t>(rows.columns), scales.data(),
                        static_cast<size_t>(group_columns), setup.cast, to, &figures);
    report->squared_error.Add(rows.row_begin + row, figures.squared_error);
    report->squared_source.Add(rows.row_begin + row, figures.squared_source);
    report->max_abs_error = std::max(report->max_abs_error, figures.max_abs_error);
    report->saturated += figures.saturated;
  }
}

}  // namespace

SourceType SourceTypeOf(DType dtype) {
  OCTAVO_CHECK(IsSourceFloat(dtype));
  if (dtype == DType::kF32) return SourceType::kF32;
  return dtype == DType::kF16 ? SourceType::kF16 : SourceType::kBf16;
}

const std::byte* ElementAt(const WeightRows& rows, int64_t row, int64_t column) {
  return rows.bytes.data() + (row * rows.columns + column) * ByteSize(rows.dtype);
}

absl::StatusOr<uint32_t> WindowAmax(const QuantizeOps& ops, const WeightRows& rows,
                                    const Window& window) {
  const SourceType type = SourceTypeOf(rows.dtype);
  const size_t count = static_cast<size_t>(window.column_end - window.column_begin);
  uint32_t amax = 0;
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    const std::byte* at = ElementAt(rows, row, window.column_begin);
    const uint32_t row_amax = ops.amax(at, type, count);
    if (!IsFiniteAmax(row_amax)) {
      const auto column = static_cast<int64_t>(FindNonFinite(at, type, count));
      return NonFiniteError(rows, row, window.column_begin + column);
    }
    amax = MergeAmax(amax, row_amax);
  }
  return amax;
}

void RowBlockSum::Add(int64_t absolute_row, double value) {
  const int64_t block = absolute_row / kSumBlockRows;
  if (sums_.empty() || block != block_) {
    sums_.push_back(0);
    block_ = block;
  }
  sums_.back() += value;
}

double RowBlockSum::Merge() const {
  if (sums_.empty()) return 0;
  std::vector<double> sums = sums_;
  for (const MergeStep& step : MergeSteps(static_cast<int>(sums.size()))) {
    sums[step.into] += sums[step.from];
  }
  return sums[0];
}

absl::StatusOr<CastSetup> MakeCastSetup(const QuantizeRule& rule, Isa isa) {
  CastSetup setup;
  setup.format = rule.format;
  setup.ops = &QuantizeOpsFor(isa);
  const auto unsupported = [](std::string_view what) {
    return MakeError(Reason::kUnsupported, what, {}, "Choose another scheme in the recipe");
  };
  if (rule.format.type() == v1::NUMERIC_INT8) {
    setup.code = CodeType::kInt8;
  } else if (rule.format.type() != v1::NUMERIC_FP8_E4M3) {
    return unsupported("weights are quantized to FP8_E4M3 or INT8 only");
  }
  setup.cast.code = setup.code;
  setup.code_max = CodeMax(setup.code);
  const v1::Granularity granularity = rule.format.granularity();
  if (granularity != v1::PER_TENSOR && granularity != v1::PER_CHANNEL &&
      granularity != v1::PER_BLOCK) {
    return unsupported("weight scales are per tensor, per channel or per block");
  }
  if (granularity == v1::PER_BLOCK &&
      (rule.format.block_rows() < 1 || rule.format.block_columns() < 16 ||
       rule.format.block_columns() % 16 != 0)) {
    return unsupported("block scales need at least one row and a multiple of 16 columns");
  }
  if (!IsSourceFloat(rule.scale_dtype)) {
    return unsupported("scales are stored as F32, BF16 or F16");
  }
  setup.scale_type = SourceTypeOf(rule.scale_dtype);
  if (!v1::Compat_IsValid(rule.compat)) {
    return unsupported(fmt::format("unknown compatibility mode {}", static_cast<int>(rule.compat)));
  }
  setup.mode = &CompatModeOf(rule.compat);
  setup.cast.quotient = setup.mode->quotient;
  if (setup.code == CodeType::kInt8 && setup.mode->int8_full_range) {
    setup.code_max = 127.5f;
    setup.cast.int8_min = -128;
  }
  return setup;
}

absl::StatusOr<v1::PieceReport> QuantizePiece(const CastSetup& setup, const WeightRows& rows,
                                              const v1::TieStat* joint, const ChooseScale& choose,
                                              std::span<std::byte> codes,
                                              std::span<std::byte> scales) {
  const bool per_tensor = setup.format.granularity() == v1::PER_TENSOR;
  const Grid grid = GridOf(setup.format, rows);
  Report report;
  std::vector<float> band_scales;
  std::byte* scale_at = scales.data();
  for (int64_t begin = 0; begin < rows.rows; begin += grid.band_rows) {
    const int64_t end = std::min(begin + grid.band_rows, rows.rows);
    band_scales.clear();
    for (int64_t column = 0; column < rows.columns; column += grid.group_columns) {
      const Window window = {begin, end, column,
                             std::min(column + grid.group_columns, rows.columns)};
      OCTAVO_ASSIGN_OR_RETURN(uint32_t amax, WindowAmax(*setup.ops, rows, window));
      const bool whole = !per_tensor || joint == nullptr;
      if (!whole) amax = joint->amax_bits();
      const float scale = amax == 0 ? CompatScale(*setup.mode, 0, setup.code_max, setup.scale_type)
                                    : choose(rows, window, amax);
      if (amax == 0 && (whole || rows.row_begin == 0)) ++report.zero_groups;
      if (amax != 0) report.AddScale(scale);
      band_scales.push_back(scale);
      StoreScale(scale, setup.scale_type, scale_at);
      scale_at += ByteSize(setup.scale_type);
    }
    CastBand(setup, rows, begin, end, grid.group_columns, band_scales, codes, &report);
  }
  OCTAVO_CHECK(scale_at == scales.data() + scales.size());
  v1::PieceReport out;
  out.set_tensor(std::string(rows.tensor));
  out.set_squared_error(report.squared_error.Merge());
  out.set_squared_source(report.squared_source.Merge());
  out.set_max_abs_error(report.max_abs_error);
  out.set_elements(static_cast<uint64_t>(rows.rows) * static_cast<uint64_t>(rows.columns));
  out.set_zero_groups(report.zero_groups);
  out.set_saturated(report.saturated);
  out.set_scale_min(report.scale_min);
  out.set_scale_max(report.scale_max);
  return out;
}

}  // namespace octavo

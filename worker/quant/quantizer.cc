#include "worker/quant/quantizer.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "worker/quant/mse.h"
#include "worker/quant/round_to_nearest.h"

namespace octavo {
namespace {

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

absl::StatusOr<std::unique_ptr<Quantizer>> MakeQuantizer(const QuantizeRule& rule, Isa isa) {
  OCTAVO_ASSIGN_OR_RETURN(CastSetup setup, MakeCastSetup(rule, isa));
  switch (rule.algorithm) {
    case v1::ABSMAX:
      return std::make_unique<RoundToNearest>(std::move(setup));
    case v1::MSE:
      if (rule.compat != v1::COMPAT_NONE) {
        return MakeError(Reason::kUnsupported,
                         "the MSE search has no compatibility mode: the tool's own result for a "
                         "row depends on the other rows",
                         {}, "Use algorithm: absmax, or leave out compat");
      }
      return std::make_unique<MseSearch>(std::move(setup));
    default:
      return MakeError(Reason::kUnsupported, "unknown quantization algorithm", {},
                       "Use absmax or mse");
  }
}

size_t CodeBytes(int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows) * static_cast<size_t>(columns);
}

size_t ScaleCount(const v1::NumericFormat& format, int64_t rows, int64_t columns) {
  switch (format.granularity()) {
    case v1::PER_CHANNEL:
      return static_cast<size_t>(rows);
    case v1::PER_BLOCK:
      return static_cast<size_t>(CeilDivide(rows, format.block_rows()) *
                                 CeilDivide(columns, format.block_columns()));
    default:
      return 1;
  }
}

size_t ScaleBytes(const QuantizeRule& rule, int64_t rows, int64_t columns) {
  return ScaleCount(rule.format, rows, columns) * static_cast<size_t>(ByteSize(rule.scale_dtype));
}

}  // namespace octavo

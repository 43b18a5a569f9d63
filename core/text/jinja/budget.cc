#include "core/text/jinja/budget.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo::jinja {

absl::Status Budget::Spend(int64_t steps) {
  steps_left_ -= steps;
  if (steps_left_ >= 0) return absl::OkStatus();
  steps_left_ = 0;
  return MakeError(Reason::kBadRequest, fmt::format("more than {} steps", kStepsMax));
}

absl::Status Budget::Make(size_t bytes) {
  OCTAVO_RETURN_IF_ERROR(SpendBytes(bytes));
  if (bytes > static_cast<size_t>(bytes_left_)) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("more than {} MiB of intermediate values", kBytesMadeMax >> 20));
  }
  bytes_left_ -= static_cast<int64_t>(bytes);
  return absl::OkStatus();
}

}  // namespace octavo::jinja

#include "cli/load_plan.h"

#include <algorithm>
#include <cmath>

#include "core/tensor/bare/philox.h"

namespace octavo {
namespace {

// Streams of random words; prompts have the streams from kPrompts on, one each.
enum : uint32_t { kArrivals, kInputs, kOutputs, kPrompts };

double Unit(uint64_t seed, uint64_t index, uint32_t stream) {
  const PhiloxBlock words = PhiloxAt(seed, index, stream);
  return (words[0] + 0x1p-32 * words[1]) * 0x1p-32;
}

uint32_t Length(uint32_t mean, double spread, double unit) {
  const double length = mean * (1 + spread * (2 * unit - 1));
  return static_cast<uint32_t>(std::max(1.0, std::round(length)));
}

}  // namespace

std::vector<PlannedRequest> PlanLoad(const LoadShape& shape) {
  std::vector<PlannedRequest> plan(shape.requests);
  double now = 0;
  for (uint32_t i = 0; i < shape.requests; ++i) {
    PlannedRequest& request = plan[i];
    // The first one comes at once.
    if (shape.rate > 0 && i > 0) now -= std::log1p(-Unit(shape.seed, i, kArrivals)) / shape.rate;
    request.at_seconds = now;
    const uint32_t tokens = Length(shape.input_tokens, shape.spread, Unit(shape.seed, i, kInputs));
    request.output_tokens =
        Length(shape.output_tokens, shape.spread, Unit(shape.seed, i, kOutputs));
    request.seed = shape.seed + i;
    for (uint32_t t = 0; t < tokens; ++t) {
      const uint32_t word = PhiloxAt(shape.seed, t, kPrompts + i)[0];
      request.prompt.push_back(shape.first_id + static_cast<int32_t>(word % shape.ids));
    }
  }
  return plan;
}

}  // namespace octavo

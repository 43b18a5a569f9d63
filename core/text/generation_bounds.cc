#include "core/text/generation_bounds.h"

#include <string_view>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status CheckRange(std::string_view field, float value, float least, float most) {
  if (value >= least && value <= most) return absl::OkStatus();  // never true of NaN
  return MakeError(Reason::kBadRequest, fmt::format("{} is {}, it must be between {} and {}", field,
                                                    value, least, most));
}

absl::Status CheckCount(std::string_view field, int64_t count, int64_t most) {
  if (count <= most) return absl::OkStatus();
  return MakeError(Reason::kBadRequest, fmt::format("{} is {}, at most {}", field, count, most));
}

absl::Status CheckSampling(const v1::Sampling& sampling) {
  OCTAVO_RETURN_IF_ERROR(CheckRange("temperature", sampling.temperature(), 0.0f, 100.0f));
  if (sampling.temperature() > 0.0f && sampling.temperature() < 1e-3f) {
    return MakeError(Reason::kBadRequest, "temperature must be 0 or at least 0.001", {},
                     "use 0 for greedy decoding");
  }
  OCTAVO_RETURN_IF_ERROR(CheckRange("top_p", sampling.top_p(), 0.0f, 1.0f));
  OCTAVO_RETURN_IF_ERROR(CheckRange("min_p", sampling.min_p(), 0.0f, 1.0f));
  if (sampling.repetition_penalty() != 0.0f) {
    OCTAVO_RETURN_IF_ERROR(
        CheckRange("repetition_penalty", sampling.repetition_penalty(), 0.01f, 100.0f));
  }
  OCTAVO_RETURN_IF_ERROR(CheckRange("presence_penalty", sampling.presence_penalty(), -2.0f, 2.0f));
  OCTAVO_RETURN_IF_ERROR(
      CheckRange("frequency_penalty", sampling.frequency_penalty(), -2.0f, 2.0f));
  OCTAVO_RETURN_IF_ERROR(CheckCount("the number of logit_bias entries",
                                    static_cast<int64_t>(sampling.logit_bias().size()),
                                    kLogitBiasMax));
  for (const auto& [id, bias] : sampling.logit_bias()) {
    OCTAVO_RETURN_IF_ERROR(CheckRange(fmt::format("logit_bias of {}", id), bias, -100.0f, 100.0f));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckGeneration(const v1::EngineRequest& request) {
  OCTAVO_RETURN_IF_ERROR(CheckSampling(request.sampling()));
  if (request.max_tokens() == 0) {
    return MakeError(Reason::kBadRequest, "max_tokens is 0", {}, "ask for at least one token");
  }
  if (request.min_tokens() > request.max_tokens()) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("min_tokens is {}, more than the {} of max_tokens",
                                 request.min_tokens(), request.max_tokens()));
  }
  OCTAVO_RETURN_IF_ERROR(
      CheckCount("the number of stop ids", request.stop_ids_size(), kStopIdsMax));
  return CheckCount("top_logprobs", request.logprobs(), kTopLogprobsMax);
}

}  // namespace octavo

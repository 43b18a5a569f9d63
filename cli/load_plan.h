#pragma once

// What a load generator sends and when, drawn beforehand from a seed: the same flags give the same
// requests to whatever is measured.

#include <cstdint>
#include <vector>

namespace octavo {

struct LoadShape {
  uint32_t requests = 32;
  uint32_t input_tokens = 256;
  uint32_t output_tokens = 128;
  // Lengths are uniform in [(1 - spread), (1 + spread)] of the above; in [0, 1).
  double spread = 0;
  // Requests a second, at exponentially distributed distances (an open loop: they come whether or
  // not others have ended); 0: each client sends its next request when it has its answer (closed).
  double rate = 0;
  // Token ids of prompts are uniform in [first_id, first_id + ids).
  int32_t first_id = 3;
  uint32_t ids = 200;
  uint64_t seed = 1;
};

struct PlannedRequest {
  double at_seconds = 0;  // from the start; 0 in a closed loop
  std::vector<int32_t> prompt;
  uint32_t output_tokens = 0;
  uint64_t seed = 0;  // of its draws
};

// In order of time. REQUIRES: ids > 0, input_tokens > 0, output_tokens > 0.
std::vector<PlannedRequest> PlanLoad(const LoadShape& shape);

}  // namespace octavo

#pragma once

// More tokens for experts that the router neglects, to be observed and nothing else
// (docs/numerics.md, coverage).

#include <cstdint>
#include <span>

#include "worker/runner/expert_route.h"

namespace octavo {

// Every expert then sees at least `quota` rows of every sample (all rows of a shorter one): where
// fewer are routed to it, those of the rest that the router gives it the highest probability; ties
// to the lower row. `p` is [rows][experts], the router's softmax; a sample is a run of `samples[i]`
// rows, and the samples tile the rows.
void CoverExperts(const float* p, std::span<const int64_t> samples, int64_t quota,
                  ExpertRoute* route);

}  // namespace octavo

#pragma once

// Finds stop strings in text that arrives in pieces. How the text is cut into pieces never changes
// the result.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

inline constexpr size_t kStopStringBytesMax = 1024;

class StopMatcher {
 public:
  // `stops`: at most kStopStringsMax (core/base/limits.h) strings of valid UTF-8, each of 1 to
  // kStopStringBytesMax bytes; anything else is kBadRequest.
  static absl::StatusOr<StopMatcher> Create(std::span<const std::string> stops);

  // Without stop strings: everything passes.
  StopMatcher() = default;

  struct Result {
    std::string emit;      // text that can no longer be part of a stop string
    bool matched = false;  // a stop string is complete; `emit` ends just before it
    int stop_index = -1;   // which one, when matched
  };

  // Holds back the longest suffix with which some stop string begins. The match is the one that is
  // complete first; of several that end there, the longest. After a match everything is dropped.
  Result Push(std::string_view text);

  // What was held back, when the text ends without a match. Starts over.
  std::string Finish();

  bool matched() const { return matched_; }

 private:
  struct Stop {
    std::string text;
    std::vector<size_t> fallback;  // Knuth-Morris-Pratt: longest proper border of each prefix
    size_t matched = 0;            // how much of `text` the input ends with
  };
  std::vector<Stop> stops_;
  std::string held_;
  bool matched_ = false;
};

}  // namespace octavo

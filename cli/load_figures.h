#pragma once

// What a load came to: latencies by quantile, tokens a second, and goodput, which counts only
// requests that met their goals.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace octavo {

// One request as its client saw it. Times in seconds from the start of the load.
struct RequestRecord {
  double due = 0;    // when it was to be sent: a client that is late does not flatter the server
  double first = 0;  // the first token
  double last = 0;   // the last
  double done = 0;
  std::vector<double> gaps;  // between arrivals of tokens; those that came together are one arrival
  uint32_t input_tokens = 0;
  uint32_t output_tokens = 0;
  std::string failure;  // its reason; empty: answered
};

// 0: no goal.
struct LoadGoals {
  double first_token_seconds = 0;
  double gap_seconds = 0;  // the mean time per token after the first
};

struct Latencies {
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;  // seconds; 0 where there are none
};

struct LoadFigures {
  uint64_t answered = 0;
  std::map<std::string, uint64_t> failed;        // by reason
  double seconds = 0;                            // until the last request ended
  uint64_t input_tokens = 0, output_tokens = 0;  // of what was answered
  Latencies first_token;                         // from `due` to the first token
  Latencies gap;                                 // between arrivals
  Latencies per_token;                           // of a request: (done - first) / (tokens - 1)
  Latencies whole;                               // from `due` to the end
  uint64_t good = 0;                             // answered within the goals

  double requests_per_second() const { return seconds > 0 ? answered / seconds : 0; }
  double output_tokens_per_second() const { return seconds > 0 ? output_tokens / seconds : 0; }
  double goodput() const { return seconds > 0 ? good / seconds : 0; }
};

LoadFigures FiguresOf(std::span<const RequestRecord> records, const LoadGoals& goals);

std::string TextOf(const LoadFigures& figures);
nlohmann::ordered_json JsonOf(const LoadFigures& figures);

}  // namespace octavo

#pragma once

// Load on an OpenAI-style HTTP server (vLLM, llama.cpp, ...): POST URL/v1/completions with token
// ids as the prompt, streamed as server-sent events. So that peers are measured by the same
// clients.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "cli/load_run.h"

namespace octavo {

// Reads a stream of server-sent events as it comes, in pieces of any length.
class CompletionEvents {
 public:
  // What one more piece brought: whether tokens were among it. Errors: kBadData for an event that
  // is not JSON, or a line of more than a MiB.
  absl::StatusOr<bool> Take(std::string_view piece);

  bool done() const { return done_; }  // the server said so, or told a finish reason
  uint32_t input_tokens() const { return input_tokens_; }
  // As the usage says; where there is none, the number of events with text.
  uint32_t output_tokens() const { return usage_ ? output_tokens_ : events_; }

 private:
  absl::StatusOr<bool> TakeLine(std::string_view line);

  std::string line_;  // begun
  bool done_ = false;
  bool usage_ = false;
  uint32_t input_tokens_ = 0;
  uint32_t output_tokens_ = 0;
  uint32_t events_ = 0;
};

// One connection, kept open between requests. Failures are "HTTP 503", or the name of a reason:
// UNREACHABLE, DEADLINE, CANCELLED, BAD_DATA. `url` is http://HOST:PORT.
LoadSender HttpSender(const std::string& url, const StopSignal& stop, const LoadTarget& target);

}  // namespace octavo

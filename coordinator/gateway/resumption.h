#pragma once

// Taking up a stream whose gateway died: what was asked and what was told lies in the log of the
// worker that led the group (worker/serve/token_log.h), under the request's id. Any gateway of the
// cluster can ask for it.

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/gateway/choices.h"
#include "octavo/v1/inference.pb.h"
#include "octavo/v1/token_log.pb.h"

namespace octavo {

// Requests beyond that cannot be taken up again.
inline constexpr size_t kNoteBytesMax = 1u << 20;

// The note that goes with a request of a client that chose its id; empty where the id was drawn or
// the request is too large.
std::string NoteOf(const v1::GenerateRequest& request, const v1::ModelInfo& model, uint64_t seed);

// Whether the request asks for the rest of an earlier one. kBadRequest where it says from_index
// and something that does not go with it.
absl::StatusOr<bool> IsResumption(const v1::GenerateRequest& request);

// What an earlier request was and how far it came.
struct Resumption {
  v1::GenerateRequest request;
  std::string model_dir;
  std::string note;                           // as it was
  std::map<uint32_t, std::string> told = {};  // by choice: EngineEvents
  std::vector<uint32_t> client_tokens = {};   // by choice
};

// Asks all of them at once, for at most `timeout`. What those that remember it say; kNotReady where
// none answered.
absl::StatusOr<std::vector<v1::LoggedRequest>> AskForLog(
    const std::vector<std::shared_ptr<v1::Engine::Stub>>& workers, const std::string& request_id,
    std::chrono::milliseconds timeout);

// The request that was begun last, and of every choice the longest answer: all are beginnings of
// the same one. kNotFound where there is none, kBadRequest where `resume` does not fit it.
absl::StatusOr<Resumption> ChooseLog(const std::vector<v1::LoggedRequest>& logs,
                                     const v1::GenerateRequest& resume);

// What Choices needs to know of choice `index`. Nothing where the client still has to get the
// prompt's log probabilities, which no log has: that choice is answered anew.
Choices::Past PastOf(const Resumption& resumption, uint32_t index);

}  // namespace octavo

#pragma once

// What may be asked of a generation, whatever the model: one check for the gateway, which refuses
// before anything is computed, and for the engine, which trusts nobody.

#include "absl/status/status.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

// Errors: kBadRequest naming the field that is out of range, what it is and its bound. NaN is out
// of every range. Whether ids are in the vocabulary is not looked at.
//
//   temperature                           0, or 0.001 to 100
//   top_p, min_p                          0 to 1
//   repetition_penalty                    0, or 0.01 to 100
//   presence_penalty, frequency_penalty   -2 to 2
//   logit_bias                            -100 to 100 each, for at most kLogitBiasMax ids
//   max_tokens                            at least 1
//   min_tokens                            at most max_tokens
//   stop_ids                              at most kStopIdsMax
//   logprobs (top_logprobs of clients)    at most kTopLogprobsMax
absl::Status CheckGeneration(const v1::EngineRequest& request);

}  // namespace octavo

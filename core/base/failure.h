#pragma once

// absl::Status as data and back. `Failure` is the message octavo.v1.Failure (a template, so that
// this floor needs no protobuf).

#include <string>

#include "absl/status/status.h"
#include "core/base/error.h"

namespace octavo {

// REQUIRES !status.ok().
template <typename Failure>
void SetFailure(const absl::Status& status, Failure* failure) {
  failure->set_reason(std::string(InfoOf(ReasonOf(status)).name));
  failure->set_message(std::string(status.message()));
}

// An unknown reason (a newer peer) is kInternal.
template <typename Failure>
absl::Status StatusOfFailure(const Failure& failure) {
  return MakeError(ReasonFromName(failure.reason()).value_or(Reason::kInternal), failure.message());
}

}  // namespace octavo

#pragma once

// Errors over the wire. A status keeps its code, message and Reason: the Reason travels in the
// trailer grpc-status-details-bin as google.rpc.Status with one google.rpc.ErrorInfo
// {reason: "BAD_CHECKPOINT", domain: "octavo"}, so that clients in any language can read it.

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace octavo {

// A message above kStatusMessageBytesMax (it may quote what was asked) loses its middle: its
// beginning says what happened, its end what to do.
grpc::Status ToGrpc(const absl::Status& status);

// The reverse. Without details (another server, or gRPC itself) the code decides the reason:
// UNAVAILABLE is kUnreachable.
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace octavo

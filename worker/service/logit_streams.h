#pragma once

// Logits on their way between leaders, and the comparison of two models that reads them.

#include <optional>

#include "absl/status/status.h"
#include "core/base/clock.h"
#include "octavo/v1/compare.pb.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "worker/serve/engine.h"

namespace octavo {

// The RPC's deadline on the engine's clock.
std::optional<Clock::Nanos> DeadlineOf(const grpc::ServerContext& context);

// Writes every row of request.ids, at most kLogitMessageBytes a message. Ends with kCancelled where
// the reader goes away.
inline constexpr size_t kLogitMessageBytes = 4 << 20;
absl::Status StreamLogits(Engine& engine, const v1::EngineScoreRequest& request,
                          const grpc::ServerContext& context,
                          grpc::ServerWriter<v1::LogitRows>& writer);

// Compares this engine's model with that of request.reference_address. `token` is presented to that
// leader. Errors: kBadRequest (fewer than two ids, an id or a vocabulary that does not fit),
// kGroupLost (the reference's leader does not answer), those of both engines.
absl::Status CompareWithReference(Engine& engine, const v1::EngineCompareRequest& request,
                                  const grpc::ServerContext& context, const std::string& token,
                                  v1::Comparison* result);

}  // namespace octavo

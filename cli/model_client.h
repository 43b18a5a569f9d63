#pragma once

// Models seen from a client: loading one over the workers of a cluster, and finding the one that is
// there.

#include <string>
#include <string_view>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

struct ServeRequest {
  std::string dir;
  std::string model_id = {};  // empty: the folder's name
  int tensor_parallel = 1;
  int64_t max_model_len = 0;        // 0: the model's own, bounded by memory
  uint32_t max_batched_tokens = 0;  // 0: the coordinator's default; so is the next
  uint32_t max_sequences = 0;
  int64_t kv_cache_tokens = 0;  // 0: what the workers' memory leaves
  bool replace = false;         // take the place of what the id serves now
  v1::CacheType cache_type = v1::CACHE_AUTO;
  bool kv_scale_one = false;
  v1::HeadType head_type = v1::HEAD_AS_STORED;
};

// --kv-cache-dtype auto|bf16|fp8, --kv-scale-one, --lm-head stored|fp8.
void AddPrecisionOptions(CLI::App& command, ServeRequest& request);
// "bf16" or "fp8".
std::string_view CacheName(v1::CacheType type);

// Returns when the model answers; its failure otherwise. kCancelled when `stop` fires.
absl::StatusOr<v1::ModelInfo> LoadModel(const Session& session, const StopSignal& stop,
                                        const ServeRequest& request);

// The loaded models.
absl::StatusOr<v1::ListModelsResponse> ListModels(const Session& session);

// Takes a model off its workers; they stay.
absl::Status UnloadModel(const Session& session, const std::string& model_id);

}  // namespace octavo

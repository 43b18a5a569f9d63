#include "cli/model_client.h"

#include <filesystem>
#include <map>
#include <stop_token>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

constexpr std::chrono::seconds kLoadTimeout{600};
constexpr std::chrono::seconds kModelCallTimeout{30};

const std::map<std::string, v1::CacheType> kCacheTypes = {
    {"auto", v1::CACHE_AUTO}, {"bf16", v1::CACHE_BF16}, {"fp8", v1::CACHE_FP8}};

const std::map<std::string, v1::HeadType> kHeadTypes = {{"stored", v1::HEAD_AS_STORED},
                                                        {"fp8", v1::HEAD_FP8}};

}  // namespace

void AddPrecisionOptions(CLI::App& command, ServeRequest& request) {
  command
      .add_option("--kv-cache-dtype", request.cache_type,
                  "Keys and values: fp8 needs calibrated scales, auto takes it where they are")
      ->transform(CLI::CheckedTransformer(kCacheTypes).description("{auto,bf16,fp8}"))
      ->default_str("auto");
  command.add_flag("--kv-scale-one", request.kv_scale_one,
                   "With --kv-cache-dtype fp8: scales of 1 where none were calibrated");
  command.add_option("--lm-head", request.head_type, "fp8: the output head is quantized at load")
      ->transform(CLI::CheckedTransformer(kHeadTypes).description("{stored,fp8}"))
      ->default_str("stored");
}

std::string_view CacheName(v1::CacheType type) {
  for (const auto& [name, value] : kCacheTypes) {
    if (value == type) return name;
  }
  return "";
}

absl::StatusOr<v1::ModelInfo> LoadModel(const Session& session, const StopSignal& stop,
                                        const ServeRequest& request) {
  v1::LoadModelRequest load;
  load.set_model_dir(std::filesystem::absolute(request.dir).lexically_normal().string());
  load.set_model_id(request.model_id);
  load.set_tensor_parallel(static_cast<uint32_t>(request.tensor_parallel));
  load.set_max_model_len(request.max_model_len);
  load.set_cache_type(request.cache_type);
  load.set_kv_scale_one(request.kv_scale_one);
  load.set_head_type(request.head_type);
  load.set_max_batched_tokens(request.max_batched_tokens);
  load.set_max_sequences(request.max_sequences);
  load.set_kv_cache_tokens(request.kv_cache_tokens);
  load.set_replace(request.replace);
  grpc::ClientContext context;
  SetTimeout(context, kLoadTimeout);
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  auto reader = v1::Models::NewStub(session.channel())->Load(&context, load);
  v1::ModelInfo info, last;
  while (reader->Read(&info)) last = info;
  const absl::Status ended = FromGrpc(reader->Finish());
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  OCTAVO_RETURN_IF_ERROR(ended);
  if (last.state() == "ready") return last;
  if (last.has_failure()) {
    return MakeError(ReasonFromName(last.failure().reason()).value_or(Reason::kInternal),
                     last.failure().message());
  }
  return MakeError(Reason::kInternal, fmt::format("loading ended in state '{}'", last.state()),
                   {.file = load.model_dir()});
}

absl::StatusOr<v1::ListModelsResponse> ListModels(const Session& session) {
  grpc::ClientContext context;
  SetTimeout(context, kModelCallTimeout);
  v1::ListModelsResponse response;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Models::NewStub(session.channel())->List(&context, {}, &response)));
  return response;
}

absl::Status UnloadModel(const Session& session, const std::string& model_id) {
  grpc::ClientContext context;
  SetTimeout(context, kModelCallTimeout);
  v1::UnloadModelRequest request;
  request.set_model_id(model_id);
  v1::UnloadModelResponse response;
  return FromGrpc(v1::Models::NewStub(session.channel())->Unload(&context, request, &response));
}

}  // namespace octavo

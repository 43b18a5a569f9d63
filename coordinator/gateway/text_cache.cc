#include "coordinator/gateway/text_cache.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/channel.h"
#include "octavo/v1/service/engine.grpc.pb.h"

namespace octavo {
namespace {

constexpr std::chrono::seconds kFetchTimeout{20};
constexpr size_t kModelsMax = 256;

constexpr std::array<const char*, 6> kNames = {"tokenizer.json",         "tokenizer.model",
                                               "tokenizer_config.json",  "chat_template.jinja",
                                               "generation_config.json", "config.json"};

struct File {
  std::string digest;  // empty: the model has no such file
  std::string bytes;
};

// One file of the leader; only its digest where `bytes` is not wanted.
absl::StatusOr<File> Fetch(v1::Engine::Stub& leader, const v1::ModelInfo& model, const char* name,
                           bool bytes) {
  grpc::ClientContext context;
  SetTimeout(context, kFetchTimeout);
  v1::GetArtifactRequest request;
  request.set_model_id(model.model_id());
  request.set_group_epoch(model.group_epoch());
  request.set_name(name);
  const auto reader = leader.GetArtifact(&context, request);
  File file;
  v1::ArtifactChunk chunk;
  bool complete = true;
  while (reader->Read(&chunk)) {
    if (chunk.has_digest()) {
      file.digest = Digest128{.low = chunk.digest().low(), .high = chunk.digest().high()}.Hex();
      if (!bytes) {
        context.TryCancel();
        complete = false;
        break;
      }
    }
    file.bytes += chunk.data();
    if (file.bytes.size() > kTokenizerFileMax) context.TryCancel();
  }
  const absl::Status status = FromGrpc(reader->Finish());
  if (!status.ok() && complete) {
    if (ReasonOf(status) == Reason::kInputMissing) return File();
    return status;
  }
  if (bytes && DigestOf(file.bytes).Hex() != file.digest) {
    return MakeError(Reason::kCorrupted, "the bytes from the leader differ from their digest",
                     {.file = name});
  }
  return file;
}

using Files = std::array<File, kNames.size()>;

// Of a leader that does not answer, or whose group is gone: nothing was begun yet that could break.
absl::Status NotReadyWhereLost(const absl::Status& status) {
  const Reason reason = ReasonOf(status);
  if (reason != Reason::kUnreachable && reason != Reason::kGroupLost) return status;
  return MakeError(
      Reason::kNotReady,
      fmt::format("the leader rank does not answer ({})", std::string(status.message())), {},
      "try again when the model is ready");
}

absl::StatusOr<Files> FetchAll(v1::Engine::Stub& leader, const v1::ModelInfo& model, bool bytes) {
  Files files;
  for (size_t i = 0; i < kNames.size(); ++i) {
    absl::StatusOr<File> file = Fetch(leader, model, kNames[i], bytes);
    if (!file.ok()) return NotReadyWhereLost(file.status());
    files[i] = *std::move(file);
  }
  return files;
}

std::string DigestOfAll(const Files& files) {
  std::string all;
  for (const File& file : files) all += file.digest + "/";
  return all;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const TextBundle>> TextCache::Get(const v1::ModelInfo& model) {
  if (auto known = FindModel(model)) return known;
  MutexLock fetching(fetch_mutex_);
  if (auto known = FindModel(model)) return known;
  const auto leader = v1::Engine::NewStub(MakeChannel(model.leader_address(), token_));
  OCTAVO_ASSIGN_OR_RETURN(Files files, FetchAll(*leader, model, false));
  std::shared_ptr<const TextBundle> text = Find(DigestOfAll(files));
  if (text == nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(files, FetchAll(*leader, model, true));
    auto loaded = LoadTextBundle({.tokenizer_json = files[0].bytes,
                                  .tokenizer_model = files[1].bytes,
                                  .tokenizer_config_json = files[2].bytes,
                                  .chat_template_jinja = files[3].bytes,
                                  .generation_config_json = files[4].bytes,
                                  .config_json = files[5].bytes});
    if (!loaded.ok()) {
      return WithContext(loaded.status(), fmt::format("model '{}'", model.model_id()));
    }
    text = std::make_shared<const TextBundle>(*std::move(loaded));
    Keep(DigestOfAll(files), text);
  }
  MutexLock lock(mutex_);
  if (models_.size() >= kModelsMax) models_.clear();
  models_[model.model_id()] = {
      .epoch = model.group_epoch(), .leader = model.leader_address(), .digest = DigestOfAll(files)};
  return text;
}

std::shared_ptr<const TextBundle> TextCache::FindModel(const v1::ModelInfo& model) {
  std::string digest;
  {
    MutexLock lock(mutex_);
    const auto it = models_.find(model.model_id());
    if (it == models_.end() || it->second.epoch != model.group_epoch() ||
        it->second.leader != model.leader_address()) {
      return nullptr;
    }
    digest = it->second.digest;
  }
  return Find(digest);
}

std::shared_ptr<const TextBundle> TextCache::Find(const std::string& digest) {
  MutexLock lock(mutex_);
  for (Entry& entry : entries_) {
    if (entry.digest != digest) continue;
    entry.used = ++uses_;
    return entry.text;
  }
  return nullptr;
}

void TextCache::Keep(const std::string& digest, std::shared_ptr<const TextBundle> text) {
  MutexLock lock(mutex_);
  if (entries_.size() >= kBundlesMax) {
    entries_.erase(std::ranges::min_element(entries_, {}, &Entry::used));
  }
  entries_.push_back({.digest = digest, .text = std::move(text), .used = ++uses_});
}

}  // namespace octavo
